#!/usr/bin/env bash
# Three restorations of one small picture, and a picture of where they differ (20 times; darker is more).
# usage: samples.sh PHOTO
set -euo pipefail

irn downscale -o samples/small.png --force -- "$1"
irn upscale samples/small.png -o samples/large.png --samples 3 --spread --force
ls samples # large_1.png large_2.png large_3.png large_spread.png small.png
