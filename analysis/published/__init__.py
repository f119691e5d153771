"""Published results: those of the reproduced study and of other sources, next to which measured results are shown."""
