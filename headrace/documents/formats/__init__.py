"""Source bytes to Markdown, one module per format. All but the limits and the registry runs in a process of its own.

To add a format: its writer in a module of its own, and a record in `registry.py` (docs/how-to/add-a-document-format.md).

    registry      `FORMATS`, the record of each format
    contract      what a writer takes and returns
    detection     which format a file has
    encoding      bytes to letters
    office        which format a zip file has, and whether it may be unpacked
    plain_text, html, pdf, word, slides, workbook, records, opendocument, epub, rtf, mail, notebook    the writers
    markdown, table, number_format     headings, tables and cells, as every writer puts them
    columns, form, ocr                 what the pages of a PDF need
    languages                          the language of source code
    worker        the process that runs the writers; `sandbox` is what it gives up first
"""
