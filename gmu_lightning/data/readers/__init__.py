"""Readers of file formats and layouts that several data sets share."""
