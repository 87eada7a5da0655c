#!/usr/bin/env bash
# Set up .venv, train RoPE, ALiBi and xPos on texts of 128 bytes from Python's standard library,
# evaluate them on texts up to 16 times longer, and print perplexity by length.
# After the installation: 1 to 3 minutes on two cores. Safe to interrupt and start again.
# A quarter of the tokens of size=nano in small batches, and a quarter of the scored tokens: what
# breaks, what is rescued and what holds is seen all the same.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

echo "1/2 training three small models (1 to 2 minutes)"
lexp train -m model=rope,alibi,xpos tokens=3e5 batch_tokens=1024 eval_every=1000 name=quickstart
echo "2/2 evaluating each at 6 lengths under 3 attention patterns (less than a minute)"
lexp eval name=quickstart 'attention=[full,blockwise,window]' max_tokens=16384
echo "done; picture and tables: outputs/quickstart/results.png, results.md, results.csv"
