"""The page of `holitom web` to try methods in a browser.

    request -> answering.py: runs, one after another for a model -> words.py: what changes on the page
            -> cards.py, copying.py: HTML and texts to copy
            -> elements.py, page.py, page.css, page.js: Gradio

`history.py` holds the runs of one session as plain numbers, which travel with the session's requests: the
desk keeps nothing between two requests, so users' data cannot mix. Only `elements.py` and `page.py` import
Gradio.
"""
