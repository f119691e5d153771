"""The report: one HTML file that holds its charts, numbers and program, and asks for nothing.

results.py -> what is read from the database        parts.py    -> sections, figures, tables
sections   -> overview, correlations, measured, band, contact_sheet, provenance, changes
page.py    -> page.html, page.css, page.js          figures.py  -> SVG, PNG, PDF
"""
