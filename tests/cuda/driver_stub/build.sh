#!/usr/bin/env bash
# Compiles driver.c, and a function that refuses for every other one in the toolkit's headers:
#     bash build.sh INCLUDE FOLDER
# makes FOLDER/libcuda.so.1 and the link to it that linkers look for.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
include="$1" folder="$2"
mkdir -p "$folder"
cat "$include/cuda.h" "$include/cudaProfiler.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]*' | sort -u > "$folder/names"
grep -oE '\bcu[A-Z][A-Za-z0-9_]*\(' "$here/driver.c" | tr -d '(' | sort -u > "$folder/own"
comm -23 "$folder/names" "$folder/own" |
    sed 's/.*/int &(void) { return refused("&"); }/' > "$folder/others.h"
gcc -std=gnu11 -O1 -g -Wall -Wextra -shared -fPIC -pthread -I"$folder" -Wl,-soname,libcuda.so.1 \
    -o "$folder/libcuda.so.1" "$here/driver.c"
ln -sfn libcuda.so.1 "$folder/libcuda.so"
rm "$folder/names" "$folder/own" "$folder/others.h"
