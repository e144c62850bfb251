#!/usr/bin/env bash
# setup-wasm.sh - make sure Rust can compile for wasm32-unknown-unknown.
#
#   1. Target already there?                      -> nothing to do.
#   2. rustup can add it (the normal case)?       -> done.
#   3. Debian/Ubuntu without rustup downloads?    -> take rustc, its std sources and lld from
#      the distribution, build std for wasm once, and lay the result out as a toolchain
#      directory that is linked into rustup as "edgecoder-wasm".
#
# Idempotent: a second run only verifies. Nothing outside $PREFIX, apt and rustup's
# toolchain links is touched; the default rustup toolchain is left alone.
#
# The last line on stdout says what builds the page; everything else goes to stderr:
#     default              the toolchain that builds everything else
#     rustup NAME DIR      RUSTUP_TOOLCHAIN=NAME; the toolchain lies in DIR
#     path BIN             no rustup here: put BIN first on PATH
#
# `cargo xtask setup` runs this and remembers the answer.
#
# Knobs: EDGECODER_WASM_PREFIX    where the fallback toolchain lives
#        EDGECODER_WASM_NAME      its rustup name               (edgecoder-wasm)
#        EDGECODER_WASM_FALLBACK  1 = skip steps 1 and 2
set -euo pipefail

TARGET=wasm32-unknown-unknown
NAME=${EDGECODER_WASM_NAME:-edgecoder-wasm}
PREFIX=${EDGECODER_WASM_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/edgecoder/rust-wasm}
# Only this script may decide which toolchain answers; an inherited pin would mislead it.
unset RUSTUP_TOOLCHAIN

log() { printf 'setup-wasm: %s\n' "$*" >&2; }
die() { log "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# can_build RUSTC: does this compiler produce a wasm module, linker included?
can_build() {
  local rustc=$1 dir ok=1
  dir=$(mktemp -d)
  printf '%s\n' '#[unsafe(no_mangle)] pub extern "C" fn probe(n: u32) -> usize { vec![1u8; n as usize].len() }' > "$dir/probe.rs"
  "$rustc" --edition 2024 --crate-type cdylib -O --target "$TARGET" -o "$dir/probe.wasm" "$dir/probe.rs" \
      >/dev/null 2>"$dir/err" && [ "$(head -c4 "$dir/probe.wasm" | od -An -tx1 | tr -d ' ')" = 0061736d ] || ok=0
  [ "$ok" = 1 ] || tail -n3 "$dir/err" >&2
  rm -rf "$dir"
  [ "$ok" = 1 ]
}

finish() {
  if have rustup; then
    if [ "$(readlink -f "$(rustup toolchain list -v 2>/dev/null | awk -v n="$NAME" '$1 == n {print $NF}')" 2>/dev/null)" != "$(readlink -f "$PREFIX/current")" ]; then
      rustup toolchain link "$NAME" "$(readlink -f "$PREFIX/current")" >&2
    fi
    log "ready: RUSTUP_TOOLCHAIN=$NAME ($("$PREFIX/current/bin/rustc" -V))"
    echo "rustup $NAME $(readlink -f "$PREFIX/current")"
  else
    log "ready: PATH=$PREFIX/current/bin:\$PATH ($("$PREFIX/current/bin/rustc" -V))"
    echo "path $(readlink -f "$PREFIX/current")/bin"
  fi
  exit 0
}

if [ "${EDGECODER_WASM_FALLBACK:-0}" != 1 ]; then
  if have rustc && can_build rustc 2>/dev/null; then
    log "$TARGET is available on the default toolchain ($(rustc -V))"; echo default; exit 0
  fi
fi
# A fallback toolchain from an earlier run, still good (an upgraded distribution rustc makes it fail).
if [ -x "$PREFIX/current/bin/rustc" ] && can_build "$PREFIX/current/bin/rustc" 2>/dev/null; then finish; fi
if [ "${EDGECODER_WASM_FALLBACK:-0}" != 1 ] && have rustup; then
  log "trying: rustup target add $TARGET"
  if timeout 300 env RUST_BACKTRACE=0 rustup target add "$TARGET" >&2 && can_build rustc; then
    log "$TARGET added to the default toolchain"; echo default; exit 0
  fi
  log "rustup could not provide $TARGET; falling back to the distribution's packages"
fi

have apt-get || die "no rustup download and no apt-get: install the $TARGET target by hand"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# ---- packages ------------------------------------------------------------------------------
# rustc-web/cargo-web/rust-web-src carry a current compiler in Debian 12's security suite;
# elsewhere (Debian 13+, Ubuntu) the plain names are the current ones.
candidate() { LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ && $2 != "(none)" {print $2}'; }
apt_install() {
  local missing=() p
  for p in "$@"; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  log "apt-get install ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
}
if [ -z "$(candidate rustc)" ] && [ -z "$(candidate rustc-web)" ]; then as_root apt-get update -q >&2; fi
if [ -n "$(candidate rustc-web)" ]; then pkgs=(rustc-web cargo-web rust-web-src)
else pkgs=(rustc cargo rust-src); fi
apt_install "${pkgs[@]}" gcc libc6-dev

RUSTC=/usr/bin/rustc CARGO=/usr/bin/cargo
[ -x "$RUSTC" ] && [ -x "$CARGO" ] || die "the distribution's rustc/cargo did not arrive in /usr/bin"
# The linker has to be at least as new as the LLVM that rustc emits objects with.
llvm=$("$RUSTC" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
if [ -n "$(candidate "lld-$llvm")" ]; then apt_install "lld-$llvm"; LLD=/usr/lib/llvm-$llvm/bin/lld
else apt_install lld; LLD=$(readlink -f /usr/bin/lld); fi
[ -x "$LLD" ] || die "no lld at $LLD"

HOST=$("$RUSTC" -vV | sed -n 's/^host: //p')
SYSROOT=$("$RUSTC" --print sysroot)
LIBRARY=$SYSROOT/lib/rustlib/src/rust/library
[ -f "$LIBRARY/Cargo.lock" ] || die "std sources missing under $LIBRARY"

# ---- toolchain directory -------------------------------------------------------------------
recipe=1                                     # bump when the layout or the flags below change
stamp=$(printf '%s\n' "recipe $recipe" "$("$RUSTC" -vV)" "$LLD" "$SYSROOT")
dest=$PREFIX/$("$RUSTC" -V | awk '{print $2}')-$(printf '%s' "$stamp" | sha256sum | cut -c1-8)

if [ "$(cat "$dest/stamp" 2>/dev/null)" != "$stamp" ]; then
  mkdir -p "$PREFIX"
  work=$(mktemp -d "$PREFIX/.build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  log "building std for $TARGET with $("$RUSTC" -V)"

  # A crate with nothing in it, so that only std and its friends are compiled.
  mkdir -p "$work/seed/src"
  printf '[package]\nname = "seed"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n' > "$work/seed/Cargo.toml"
  printf '#![no_std]\n' > "$work/seed/src/lib.rs"
  # embed-bitcode: lets users of this std turn on LTO. One unit per crate and no debug info,
  # as in the std that the Rust project ships. `test` is there for `cargo test --target wasm32…`.
  # Set through the environment, so that no flag from a user's own cargo config leaks in; a
  # CARGO_HOME of its own for the same reason (and so that nothing is read from ~/.cargo).
  build_std() {
    ( cd "$work/seed"
      env -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER -u CARGO_ENCODED_RUSTFLAGS \
        CARGO_HOME="$work/cargo-home" CARGO_TARGET_DIR="$work/target" CARGO_INCREMENTAL=0 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        RUSTC="$RUSTC" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Cembed-bitcode=yes" \
        "$CARGO" build --quiet --release --target "$TARGET" \
          -Z build-std=std,panic_abort,proc_macro,test "$@" >&2 )
  }
  # std's own dependencies come vendored with its sources (cargo does not look there by itself);
  # a distribution that left them out has them fetched from crates.io.
  build_std --offline --config 'source.crates-io.replace-with="std-vendor"' \
            --config "source.std-vendor.directory=\"$LIBRARY/vendor\"" \
    || { log "vendored std dependencies did not do; using crates.io"
         mkdir -p "$work/cargo-home"
         [ ! -f "$HOME/.cargo/config.toml" ] || cp "$HOME/.cargo/config.toml" "$work/cargo-home/"
         build_std; }

  tc=$work/tc
  mkdir -p "$tc/bin" "$tc/lib/rustlib/$TARGET/lib" "$tc/lib/rustlib/$HOST/bin" "$tc/lib/rustlib/src"
  for f in "$work/target/$TARGET/release/deps"/*.rlib; do
    case ${f##*/} in libseed-*) ;; *) cp "$f" "$tc/lib/rustlib/$TARGET/lib/" ;; esac
  done
  ls "$tc/lib/rustlib/$TARGET/lib"/libstd-*.rlib >/dev/null 2>&1 || die "std was not built"
  # The host half is the distribution's own. rustc looks for its linker beside it.
  ln -s "$SYSROOT/lib/rustlib/$HOST/lib" "$tc/lib/rustlib/$HOST/lib"
  ln -s "$LLD" "$tc/lib/rustlib/$HOST/bin/rust-lld"
  ln -s "$SYSROOT/lib/rustlib/src/rust" "$tc/lib/rustlib/src/rust"
  [ ! -d "$SYSROOT/lib/rustlib/etc" ] || ln -s "$SYSROOT/lib/rustlib/etc" "$tc/lib/rustlib/etc"
  # rustc derives its sysroot from librustc_driver.so, which is the distribution's, so a symlink
  # would not do: tell it. ("$@" comes last; an explicit --sysroot is refused as a duplicate.)
  for tool in rustc rustdoc; do
    [ -x "/usr/bin/$tool" ] || continue
    printf '#!/bin/sh\nexec /usr/bin/%s --sysroot "%s" "$@"\n' "$tool" "$dest" > "$tc/bin/$tool"
    chmod +x "$tc/bin/$tool"
  done
  # cargo must start the wrapper above even where no rustup proxy sits on PATH.
  printf '#!/bin/sh\nRUSTC=${RUSTC:-"%s/bin/rustc"} RUSTDOC=${RUSTDOC:-"%s/bin/rustdoc"} exec /usr/bin/cargo "$@"\n' \
    "$dest" "$dest" > "$tc/bin/cargo"
  chmod +x "$tc/bin/cargo"
  printf '%s' "$stamp" > "$tc/stamp"
  rm -rf "$dest"
  mv "$tc" "$dest"
fi

ln -sfn "$dest" "$PREFIX/current"
can_build "$PREFIX/current/bin/rustc" || die "$dest does not produce a wasm module"

finish
