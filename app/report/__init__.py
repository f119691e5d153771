"""The report: one HTML file that holds its charts, numbers and program, and asks for nothing.

build.py    -> which sections there are, in their order     page.py     -> sections, figures, tables; the page
data.py     -> what is read from the database, and which    figures.py  -> SVG and PDF
               models are drawn
"""
