"""Studies, from the study file to the rows in the database: read, resolve, plan, run and gate."""
