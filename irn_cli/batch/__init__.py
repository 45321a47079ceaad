"""Many pictures: `plan` says what each becomes, `work` does one, `line` runs them, `progress` shows it.

`jobs` has what passes between these. `outputs` names results and says which may be written; `storage` reads pictures
and writes results; `cluster` runs a plan on other machines; `shares` counts how much is done, and `estimate` says what
a plan would take. Nothing stops a batch but its user: whatever happens to one picture becomes that picture's outcome.
Data flows one way::

    inputs.find_pictures -> plan: jobs and outcomes -> line.run(plan, work): progress and outcomes -> progress.follow
"""
