#!/usr/bin/env bash
# The study behind docs/zoo.md: every scheme on your books, then every method on every scheme.
# Usage: scripts/zoo.sh FOLDER, which has train/*.txt validation/*.txt test/*.txt. Safe to interrupt and start
# again; several hours on two CPU cores.
set -euo pipefail
books=$(realpath "${1:?a folder with train/*.txt validation/*.txt test/*.txt}")
source "$(dirname "$0")/setup.sh"

data=(dataset=text "dataset.train=$books/train/*.txt" "dataset.validation=$books/validation/*.txt" "dataset.test=$books/test/*.txt")
models=$(cd conf/model && printf '%s,' *.yaml | sed 's/\.yaml//g; s/,$//')
lexp train -m "model=$models" seed=0,1 name=zoo train_len=256 tokens=2e6 eval_every=500 "${data[@]}"

score() { lexp eval name=zoo 'lengths=[128,256,512,1024,2048]' max_tokens=20480 "$@" > /dev/null; }
score 'attention=[full,blockwise,window,window_sinks]'
score 'attention=[self_extend,rerope,leaky_rerope,dual_chunk,lm_infinite,blockwise_sinks]'
score 'attention=[full]' 'extension=[pi,ntk,dynamic_ntk,ntk_by_parts,yarn,log_n,uniform_scale,drope,vector_replacement]'
score 'attention=[blockwise]' 'extension=[local_index]' model=fire
score 'attention=[trained]' 'model=[swat,swat_softmax]'
python scripts/zoo_grid.py outputs/zoo/results.csv outputs/zoo/grid.png
