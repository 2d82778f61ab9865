"""Which factor of a step is not finite, why, and what mends it.

examine.py   a step -> a report, by way of
replay.py    the step run again, operator by operator, with some results made finite
producer.py  the operator that did it, not those that pass it on, nor those whose NaN nobody reads
causes.py    what sort of fault it is, by evidence
remedies.py  what to write instead, of one operator (rewrites.py) and of choices (choices.py)
remedy.py    a line of code and the change of the graph that goes with it; repair.py runs the step with that
"""
