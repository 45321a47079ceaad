#!/usr/bin/env bash
# A folder of photographs made small, and large again; its tree is mirrored. What fails is named and the rest is done.
# Run it again after an interruption, or when photographs have been added or changed: what is done is skipped.
# usage: folder.sh PHOTOS SMALL LARGE
set -uo pipefail
status=0

irn downscale -o "$2" --update -- "$1" || status=$?
[ "$status" -le 1 ] || exit "$status" # 1: some pictures failed
irn upscale -o "$3" --update -- "$2" || status=$?
exit "$status"
