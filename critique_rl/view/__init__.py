"""`critique-rl view`: a run as one page that needs only a browser.

`gather.py` reads the files of runs, evaluations and trainers; `entries.py` turns every record into one form of
episode; `page.py` joins the data with `page.html`, `page.css` and `page.*.js` to one file. May import reports.
"""
