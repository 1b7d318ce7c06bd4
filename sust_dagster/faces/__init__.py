"""What people touch: the demo, the plain-file commands, the report, the doctor.

Belongs here: the flows behind the commands of ``cli.py``, and how results are drawn and printed. They call the
orchestration or the domain; they hold no formula.
"""
