"""Scores and grids for people: tables, drawings, the report page."""
