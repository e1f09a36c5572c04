#!/usr/bin/env python3
"""The inner loops of the Arm kernels of matrix products, judged by llvm-mca's scheduling models where no Arm machine is at hand.

Builds the kernels for aarch64, cuts the k loop of every tile out of the assembly, and compares its cycles per
iteration with those of its multiplying instructions alone (the same ones, made independent of each other, without
loads and address arithmetic). Everything printed is modelled, not measured: no caches, no memory.

    apt-get install llvm-19        # and the cross build's packages, see docs/benchmarks-arm.md
    scripts/arm_mca.py             # or: scripts/arm_mca.py --asm kernels.s
"""

import argparse, collections, os, pathlib, re, subprocess, sys, tempfile

TARGET = "aarch64-unknown-linux-gnu"
MCA = os.environ.get("LLVM_MCA", "llvm-mca-19")
ITERATIONS = 400

# Module → the instruction that its k loop is made of, multiply-accumulates of one, models.
KERNELS = {
    "gemm::arm_dotprod": ("sdot", 16, ["neoverse-n1", "cortex-a76", "neoverse-v1", "cortex-a55"]),
    "gemm::arm_i8mm": ("smmla", 32, ["neoverse-v1", "neoverse-n2"]),
    "gemm::arm_neon": ("smull|smlal", 8, ["cortex-a55", "cortex-a76", "cortex-a72", "cortex-a53"]),
    # 16 multiplications of Winograd are worth 36.
    "conv::winograd::arm_neon": ("smlal", 9, ["cortex-a55", "cortex-a76", "cortex-a72", "cortex-a53"]),
    "gemm16::arm": ("smlal", 4, ["neoverse-n1", "neoverse-v1", "cortex-a72", "cortex-a55"]),
    "weight_only::arm": ("fmla", 4, ["neoverse-n1", "neoverse-v1", "cortex-a72", "cortex-a55"]),
}
MULTIPLIES = r"(sdot|smmla|smull2?|smlal2?|sadalp|fmla)$"
# The functions that tables of tiles name, by their mangled names.
TILES = "3SET(3run|5panel)|4NEON3run|2S[48]3run"


def build():
    """The kernels' assembly, from the release profile."""
    debian = subprocess.run(["dpkg", "-L", "rustc-web"], capture_output=True, text=True).stdout
    rustc = [path for path in debian.split() if path.endswith("bin/rustc")]
    env = dict(os.environ, CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="aarch64-linux-gnu-gcc")
    env |= {"RUSTC": rustc[0]} if rustc else {}
    target_dir = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", "target/arm"))
    command = f"cargo rustc -p requant-kernels --lib --release --target {TARGET} --target-dir {target_dir}"
    subprocess.run([*command.split(), "--", "--emit", "asm"], env=env, check=True)
    deps = target_dir / TARGET / "release" / "deps"
    return max(deps.glob("requant_kernels-*.s"), key=lambda path: path.stat().st_mtime)


def loops(path):
    """(function, instructions) of every loop without inner labels that the compiler branches to."""
    function, body, labels = "", [], {}
    for line in open(path):
        text = line.strip()
        if match := re.match(r"([\w$.]+):", line):
            if not match[1].startswith((".Ltmp", ".Lfunc")):
                body, labels = [], {}
                function = function if match[1].startswith(".L") else match[1]
            labels[match[1]] = len(body)
        elif text and not text.startswith((".", "//")):
            body.append(text)
            target = re.match(r"(?:b|b\.\w+|cbn?z|tbn?z)\s.*?([\w$.]+)$", text)
            if target and target[1] in labels:
                yield function, body[labels[target[1]] :]


def cycles(instructions, cpu):
    """Modelled cycles of one iteration."""
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write("\n".join(["loop:", *instructions, ""]))
        file.flush()
        command = [MCA, "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+dotprod,+i8mm", f"-iterations={ITERATIONS}"]
        result = subprocess.run([*command, file.name], capture_output=True, text=True, check=True)
    return int(re.search(r"Total Cycles:\s+(\d+)", result.stdout)[1]) / ITERATIONS


def multiplies(instructions):
    """The multiplying instructions with independent operands."""
    kept = [text for text in instructions if re.match(MULTIPLIES, text.split()[0])]
    # Factors by element of 16 bits can be the first 16 registers only.
    free = collections.deque([*range(15), *range(16, 28)])
    independent = []
    for text in kept:
        free.rotate(-1)
        registers = iter([free[0], 28, 15])
        independent.append(re.sub(r"\bv\d+\.", lambda _: f"v{next(registers)}.", text))
    return independent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asm", type=pathlib.Path, help="assembly of the kernels, instead of building them")
    path = parser.parse_args().asm or build()
    # The longest loop of a function is its k loop; what follows it are tails.
    longest = {}
    for function, body in loops(path):
        longest[function] = max(longest.get(function, []), body, key=len)
    print("| kernel | multiplies, instructions, stack accesses | model | cycles | multiplies alone | ratio | MAC/cycle |")
    print("|---|---|---|---|---|---|---|")
    for module, (mnemonic, macs, models) in KERNELS.items():
        mangled = "".join(f"{len(part)}{part}" for part in module.split("::"))
        rows = []
        for function, body in longest.items():
            count = sum(bool(re.match(rf"({mnemonic})2?\s", text)) for text in body)
            if mangled in function and re.search(TILES, function) and count:
                note = ", no weight −128" if "symmetric" in function else ""
                if forms := re.search("2S([48])3run", function):
                    zeros = any(text.startswith("fsub") for text in body)
                    note = f", {forms[1]} bits" + (", zero points" if zeros else "")
                rows.append((count, note, body))
        for count, note, body in sorted(rows, key=lambda row: (-row[0], -len(row[2]))):
            name = f"`{module}`{note}"
            stack = sum("[sp" in text or "[x29" in text for text in body)
            for cpu in models:
                real, bound = cycles(body, cpu), cycles(multiplies(body), cpu)
                print(
                    f"| {name} | {count}, {len(body)}, {stack} | {cpu} | {real:.1f} | {bound:.1f} "
                    f"| {bound / real:.2f} | {count * macs / real:.1f} |"
                )


if __name__ == "__main__":
    sys.exit(main())
