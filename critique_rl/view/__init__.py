"""`critique-rl view`: a run as one page that needs nothing but a browser.

`gather.py` reads what runs, evaluations and trainers have written, `entries.py` says what an episode is, whichever
of them wrote it, and `page.py` joins the data with `page.html`, `page.css` and `page.js` to one file.
"""
