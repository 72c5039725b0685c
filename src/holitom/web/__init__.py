"""A page to try holitom in a browser (`holitom web`).

    request -> answering.py: runs, one after another for a model -> words.py: text and HTML -> page.py: Gradio

Only `page.py` knows Gradio. Nothing is kept between two requests, so users cannot mix.
"""
