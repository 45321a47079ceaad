"""Measuring: `evaluate` yields `scores` of `methods` on a `dataset`, which `report` and `page` show.

`methods` has all that can be measured: our networks, others' (`upscaler`), interpolation, a `codec`, and pictures that
another program made, which `matching` finds. `learned` has metrics besides PSNR and SSIM, `published` the papers'
numbers; `cluster` measures on other machines; `changes` compares two evaluations. `likeness` is `irn compare`: pictures
are compared, whoever made them. Data flows one way::

    dataset.load, methods.load_methods -> evaluate.evaluate: scores -> report.collect -> report.show, page.render
"""
