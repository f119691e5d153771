"""The report: one HTML file that holds its charts, numbers and program, and asks for nothing.

build.py    -> which sections there are, in their order     sections.py -> sections, figures, tables
data.py     -> what is read from the database, and which    page.py     -> page.html, page.css, page.js
               models are drawn                             figures.py  -> SVG and PDF
"""
