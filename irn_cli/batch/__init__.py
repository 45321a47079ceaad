"""Many pictures: `plan` and `outputs` say what each becomes, `work` does one, `line` runs them, `progress` shows it.

Nothing stops a batch but its user: whatever happens to one picture becomes that picture's outcome. Data flows one way::

    inputs.find_pictures -> plan: jobs and outcomes -> line.run(plan, work): progress and outcomes -> progress.follow
"""
