"""The report: one HTML file that holds its charts, numbers and program, and asks for nothing.

data.py    -> what is read from the database        sections.py -> sections, figures, tables
build.py   -> the sections, each of a module        choice.py   -> which models are drawn
page.py    -> page.html, page.css, page.js          figures.py  -> SVG and PDF
"""
