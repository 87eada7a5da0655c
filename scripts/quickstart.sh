#!/usr/bin/env bash
# Set up .venv, train RoPE, ALiBi and xPos on texts of 128 bytes from Python's standard library,
# evaluate them on texts up to 16 times longer, and print perplexity by length.
# After the installation: 2 to 4 minutes on two cores with AVX-512 and bfloat16, about 6 minutes on
# the slowest machine tried (two AVX2 cores, float32). Safe to interrupt and start again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

echo "1/2 training three small models (1 to 5 minutes)"
lexp train -m model=rope,alibi,xpos name=quickstart
echo "2/2 evaluating each at 6 lengths under 3 attention patterns (about a minute)"
lexp eval name=quickstart 'attention=[full,blockwise,window]'
echo "done; picture and tables: outputs/quickstart/results.png, results.md, results.csv"
