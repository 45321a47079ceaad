#!/usr/bin/env bash
# A folder of photographs made small, and large again; its tree is mirrored. Run it again after an interruption: what
# is done is passed over.
# usage: folder.sh PHOTOS SMALL LARGE
set -euo pipefail

irn downscale "$1" -o "$2" --skip-existing
irn upscale "$2" -o "$3" --skip-existing
