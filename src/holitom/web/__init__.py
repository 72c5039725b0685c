"""A page to try holitom in a browser (`holitom web`).

    request -> answering.py: runs, one after another for a model -> words.py: what changes on the page
            -> cards.py, copying.py: HTML and texts to copy -> page.py, page.css, page.js: Gradio

`history.py` holds the runs of one session as plain numbers, which travel with the session's requests: the
desk keeps nothing between two requests, so users cannot mix. Only `page.py` knows Gradio.
"""
