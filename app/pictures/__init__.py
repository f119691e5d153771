"""Pictures of images under conditions: those of a database again, contact sheets, and walls."""
