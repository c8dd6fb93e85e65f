#!/bin/sh
# Builds direct_routing.bpf.o from its sources. The same clang gives the same bytes anywhere.
set -eu
cd "$(dirname "$0")"
out=${1:-direct_routing.bpf.o}
clang-14 -O2 -g -target bpf -D__x86_64__ -Wall -Werror \
  -I"/usr/include/$(uname -m)-linux-gnu" \
  "-ffile-prefix-map=$PWD=." "-fdebug-prefix-map=$PWD=." \
  -c direct_routing.bpf.c -o "$out"
llvm-strip-14 -g "$out"
