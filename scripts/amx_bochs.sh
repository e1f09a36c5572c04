#!/bin/bash
# Runs the AMX kernels without such a processor: Linux and their tests in the emulator Bochs, in a few minutes.
#
#   scripts/amx_bochs.sh BOCHS [MODEL.onnx…]
#
# BOCHS is a folder that holds the program `bochs`, with AMX as docs/kernels.md says, and its BIOS images. Checked are
#   - that AMX is found, and that it is not where the kernel keeps tiles disabled,
#   - the unit tests of tiles, and those of GEMM and convolution, with AMX only and on two processors,
#   - each MODEL (default: those of tests/data/cnn) on random inputs by one thread and by two: `--isa amx` there must
#     write the same bytes as `--isa scalar` here.
# Exits with 1 if any of it fails. Debian's kernel, busybox and boot loader are downloaded by `apt-get download`, not
# installed. Variables: WORK, the folder of all this (target/amx-bochs); LIMIT, seconds for each of the two boots
# (1800); PROPTEST_CASES, cases of each property (6); CARGO_TARGET_DIR.
set -euo pipefail
fail() { echo "$*" >&2; exit 1; }
[ $# -ge 1 ] && [ "${1:0:1}" != - ] || { sed -n '2,/^set/s/^#.\?//p' "$0"; exit 2; }
bochs=$(realpath "$1"); shift
[ -f "$bochs/bochs" ] && [ -x "$bochs/bochs" ] || fail "$bochs holds no program bochs"
bios() { find "$bochs" -name "$1" -print -quit | grep . || fail "$bochs holds no $1"; }
bios=$(bios BIOS-bochs-latest) vgabios=$(bios VGABIOS-lgpl-latest.bin)
root=$(realpath "$(dirname "$0")/..")
[ $# -gt 0 ] || set -- "$root"/tests/data/cnn/*q*.onnx
mapfile -t models < <(realpath -e "$@")
work=$(realpath -m "${WORK:-$root/target/amx-bochs}")
mkdir -p "$work/deb" "$work/iso/isolinux"

# Static programs: the ramdisk holds no C library.
cd "$root"
export RUSTFLAGS="-C target-feature=+crt-static"
triple=x86_64-unknown-linux-gnu
cargo build --release -p requant-cli --target $triple
requant=${CARGO_TARGET_DIR:-target}/$triple/release/requant
tests=$(cargo test -p requant-kernels --lib --test int8_gemm --test int8_conv --target $triple --no-run 2>&1 |
    tee /dev/stderr | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')

# From Debian: a kernel, a shell for it, a boot loader, and what packs them.
if [ ! -e "$work/deb/complete" ]; then (
    cd "$work/deb"
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
    apt-get download "$kernel" busybox-static isolinux syslinux-common genisoimage libmagic1 cpio
    for deb in *.deb; do dpkg -x "$deb" root; done
    touch complete
) fi
debian=$work/deb/root
with_debian() { PATH=$PATH:$debian/bin:$debian/usr/bin LD_LIBRARY_PATH=$debian/usr/lib/x86_64-linux-gnu "$@"; }

# The ramdisk: programs, models and what they should answer, and what runs them.
ramdisk=$work/ramdisk
rm -rf "$ramdisk"
mkdir -p "$ramdisk"/{bin,dev,proc,tmp,models}
cp "$debian/bin/busybox" "$ramdisk/bin"
strip -o "$ramdisk/bin/requant" "$requant"
for test in $tests; do strip -o "$ramdisk/bin/$(basename "${test%-*}")" "$test"; done
for model in "${models[@]}"; do
    name=$(basename "$model" .onnx)
    inputs=$("$requant" inspect "$model" | sed -n 's/^ *input \([^ ]*\): .*/-i \1=random/p' | xargs)
    # shellcheck disable=SC2086
    "$requant" run "$model" $inputs --isa scalar --threads 1 -o "$ramdisk/models/$name.npz"
    cp "$model" "$ramdisk/models"
    echo "$name $inputs" >>"$ramdisk/models/list"
done
cat >"$ramdisk/init" <<EOF
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t tmpfs tmp /tmp
check() { what=\$1; shift; if "\$@" </dev/null; then echo "PASS \$what"; else echo "FAIL \$what"; fi; }
doctor() { /bin/requant doctor | /bin/busybox grep "isa amx: \$1"; }
refused() { ! /bin/requant demo --isa amx; }
same() {
    name=\$1 threads=\$2; shift 2
    /bin/requant run /models/\$name.onnx "\$@" --isa amx --threads \$threads --force -o /tmp/y.npz &&
        /bin/busybox cmp /tmp/y.npz /models/\$name.npz
}
if /bin/busybox grep -q no-tiles /proc/cmdline; then
    check "AMX is not found where the kernel keeps tiles disabled" doctor built
    check "AMX is refused there" refused
else
    check "AMX is found" doctor yes
    export REQUANT_ISA=amx PROPTEST_CASES=${PROPTEST_CASES:-6}
    check "tests of tiles" /bin/requant_kernels --test-threads 1 amx cpu::
    check "tests of GEMM" /bin/int8_gemm --test-threads 1
    check "tests of convolution" /bin/int8_conv --test-threads 1
    while read name inputs; do
        for threads in 1 2; do check "\$name, threads: \$threads" same \$name \$threads \$inputs; done
    done </models/list
fi
echo DONE
/bin/busybox poweroff -f
EOF
chmod +x "$ramdisk/init"
(cd "$ramdisk" && find . | with_debian cpio -o -H newc --quiet | gzip -1 >"$work/iso/initrd")
cp "$debian"/boot/vmlinuz-* "$work/iso/vmlinuz"
cp "$debian/usr/lib/ISOLINUX/isolinux.bin" "$debian/usr/lib/syslinux/modules/bios/ldlinux.c32" "$work/iso/isolinux"

# Boots with more words on the kernel's command line; the console's lines go to standard output from /init on.
boot() {
    # 580 is FSRM, which the kernel would use without ERMS, which it does not find here.
    cat >"$work/iso/isolinux/isolinux.cfg" <<EOF
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  APPEND initrd=/initrd console=ttyS0,115200 panic=-1 quiet mitigations=off tsc=reliable clearcpuid=580$*
EOF
    with_debian genisoimage -quiet -R -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table -o "$work/boot.iso" "$work/iso"
    cat >"$work/bochsrc" <<EOF
cpu: model=sapphire_rapids, count=2, ips=50000000
memory: guest=1024, host=1024
romimage: file=$bios
vgaromimage: file=$vgabios
ata0-master: type=cdrom, path=$work/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
log: $work/bochs.log
display_library: nogui
panic: action=fatal
EOF
    : >"$work/serial.txt"
    # It exits with 1 when the machine is switched off.
    timeout "${LIMIT:-1800}" "$bochs/bochs" -q -f "$work/bochsrc" </dev/null >"$work/bochs.out" 2>&1 || true
    tr -d '\r' <"$work/serial.txt" | tee -a "$work/console.txt"
    grep -q '^DONE' "$work/serial.txt" || fail "the emulated machine did not come to its end: see $work"
}
rm -f "$work/console.txt"
boot
boot ,324 no-tiles # XFD, without which the kernel does not enable tiles
! grep '^FAIL' "$work/console.txt" || exit 1
echo "all passed"
