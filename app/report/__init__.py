"""The report: one HTML file that holds its charts, numbers and program, and asks for nothing."""
