#!/bin/bash
# Fails if the inner loop of a GEMM tile touches the stack with vector registers.
# Usage: scripts/check_spills.sh BINARY   (any release binary that links requant-kernels, such as the gemm benchmark)
#
# An inner loop is what lies between a backward jump and its target, holds a multiply-add, and holds no other such
# loop and no epilogue (products of the next tile stand between packing instructions). Only functions of the x86 GEMM files are looked at.
set -euo pipefail
objdump -d --no-show-raw-insn -C "$1" | awk '
    function finish(   i, j, target, dots, spills, inner) {
        for (i = 1; i <= n; i++) {
            if (!match(text[i], /\tj[a-z]+ +[0-9a-f]+ /)) continue
            target = text[i]; sub(/^.*\tj[a-z]+ +/, "", target); sub(/ .*/, "", target)
            if (!(target in line) || line[target] >= i) continue
            dots = spills = packs = 0; inner = 1
            for (j = line[target]; j <= i; j++) {
                if (text[j] ~ /vpdpbusd|vpmaddwd/) dots++
                if (text[j] ~ /vpackss/) packs++
                if (text[j] ~ /[xyz]mm/ && text[j] ~ /\(%rsp/) spills++
                if (j < i && j in closes && closes[j] >= line[target]) inner = 0
            }
            if (dots == 0 || packs > 0) continue
            closes[i] = line[target]
            if (!inner) continue
            loops++; total += dots
            if (spills) { printf "%s: loop at %s: %d of %d instructions on the stack\n", name, target, spills, i - line[target] + 1; bad++ }
        }
    }
    /^[0-9a-f]+ </ { if (wanted) finish(); name = $0; sub(/^[0-9a-f]+ /, "", name)
                     wanted = name ~ /gemm::x86_.*(run|::SET)/; n = 0; delete line; delete text; delete closes; next }
    wanted && /^ *[0-9a-f]+:/ { n++; text[n] = $0; address = $1; sub(/:/, "", address); line[address] = n }
    END { if (wanted) finish(); printf "%d inner loops, %d multiply-adds, %d with vectors on the stack\n", loops, total, bad
          exit (bad > 0 || loops == 0) }'
