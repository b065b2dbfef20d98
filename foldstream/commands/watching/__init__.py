"""The rooms of `foldstream watch`.

words  an event as a line of text, a step as a line of text (pure)
bar    a run as a picture on a terminal
shows  the ways to show what is followed
"""
