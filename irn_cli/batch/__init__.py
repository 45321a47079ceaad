"""Many pictures: what each becomes (`plan`, `outputs`), the work on one (`work`), order (`line`); shown by `progress`.

Nothing stops a batch but its user: whatever happens to one picture becomes that picture's outcome. Data flows one way::

    inputs.find_pictures -> plan: jobs and outcomes -> line.run(plan, work): progress and outcomes -> progress.follow
"""
