#!/usr/bin/env bash
# Sets up .venv, trains RoPE, ALiBi and xPos on texts of 128 bytes from Python's standard library,
# runs them on texts up to 16 times longer, and prints perplexity by length.
# About 2 minutes on two CPU cores after the installation. Safe to interrupt and start again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

echo "1/2 training three small models (about 2 minutes)"
lexp train -m model=rope,alibi,xpos name=quickstart
echo "2/2 evaluating each at 6 lengths, in 3 attention patterns (about half a minute)"
lexp eval name=quickstart 'attention=[full,blockwise,window]'
echo "picture and tables: outputs/quickstart/results.png, results.md, results.csv"
