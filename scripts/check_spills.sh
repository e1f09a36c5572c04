#!/bin/bash
# Fails if the inner loop of an x86 kernel keeps vectors of sums or operands on the stack.
# Usage: scripts/check_spills.sh BINARY   (anything of a release build that holds requant-kernels: a program, a library)
#
# An inner loop is what lies between a backward jump and its target, holds a multiply-add, and holds no other such loop.
# Without packing instructions it is products alone, and may not touch the stack with vectors. With them an epilogue is part
# of it: looked at are those on tile registers only, which may read constants there but store nothing. Weight-only products
# are left out: their sums over blocks of K lie in memory.
set -euo pipefail
objdump -d --no-show-raw-insn -C "$1" | awk '
    BEGIN {
        tiles = "gemm::x86_[a-z0-9]*::SET|gemm::amx::.*SET|gemm16::x86::[A-Z]"
        images = "conv::spread::[A-Z]|conv::winograd::x86_[a-z0-9]*::SET|depthwise::x86_[a-z0-9]*::([a-z0-9]*_)?row>|depthwise::x86_strips::[a-z]"
        kernels = "requant_kernels::(" tiles "|" images ")"
        # 8 sums, 4 pixels, 2 vectors of weights, 2 of lanes and a product: one more than there are registers.
        allowed["conv::spread::AVX2"] = 2
    }
    function finish(   i, j, target, dots, packs, loads, stores, inner, spills, most, family) {
        for (i = 1; i <= n; i++) {
            if (!match(text[i], /\tj[a-z]+ +[0-9a-f]+ /)) continue
            target = text[i]; sub(/^.*\tj[a-z]+ +/, "", target); sub(/ .*/, "", target)
            if (!(target in line) || line[target] >= i) continue
            dots = packs = loads = stores = 0; inner = 1
            for (j = line[target]; j <= i; j++) {
                if (text[j] ~ /vpdp(bus|wss)d|pmaddwd|\ttdpb|vfmadd/) dots++
                if (text[j] ~ /vpack[su]s/) packs++
                if (text[j] ~ /%[yz]mm/ && text[j] ~ (frame ? "\\(%r[sb]p" : "\\(%rsp")) {
                    if (text[j] ~ /\tvmov.*\)$/) stores++; else loads++
                }
                if (j < i && j in closes && closes[j] >= line[target]) inner = 0
            }
            if (dots == 0) continue
            closes[i] = line[target]
            if (!inner || (packs && name !~ /amx/)) continue
            loops++; total += dots
            most = 0
            for (family in allowed) if (name ~ family) most = allowed[family]
            spills = packs ? stores : loads + stores
            if (spills > most) { printf "%s loop at %s: %d of %d instructions on the stack\n", name, target, spills, i - line[target] + 1; bad++ }
        }
    }
    /^[0-9a-f]+ </ { if (wanted) finish(); name = $0; sub(/^[0-9a-f]+ /, "", name)
                     wanted = name ~ kernels; frame = n = 0; delete line; delete text; delete closes; next }
    wanted && /^ *[0-9a-f]+:/ { n++; text[n] = $0; address = $1; sub(/:/, "", address); line[address] = n
                                if (/mov +%rsp,%rbp/) frame = 1 }
    END { if (wanted) finish(); printf "%d inner loops, %d multiply-adds, %d with vectors on the stack\n", loops, total, bad
          exit (bad > 0 || loops == 0) }'
