"""Tables, charts and pages, and their text, HTML, LaTeX and PNG forms. Knows no results."""
