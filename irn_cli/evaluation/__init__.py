"""Measuring: `evaluate` yields scores of `methods` on a `dataset`; `report` and `page` show them.

`methods` has all that can be measured: our networks, others' (`upscaler`), interpolation, a `codec`, and pictures that
another program made, which `matching` finds. `learned` has metrics beside PSNR and SSIM, `cluster` measures on other
machines, and `changes` compares two evaluations. `likeness` compares pictures, whoever made them. Data flows one way::

    dataset.load, methods.load_methods -> evaluate.evaluate: scores -> report.collect -> report.show, page.render
"""
