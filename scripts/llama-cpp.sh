# Sourced by the scripts that need llama.cpp: need_llama_cpp TARGET... sets LLAMA_CPP to a source
# folder that holds build/bin/TARGET; fetched and built when it is unset.

# The sources inside the sdist are llama.cpp at 0c1e57098. Its .git file points nowhere, which
# sends ninja into a loop. GGML_NATIVE guesses instructions that some machines then refuse.
need_llama_cpp() {
  local dir=${LLAMA_CPP:-target/llama.cpp} target missing=
  for target in "$@"; do [ -x "$dir/build/bin/$target" ] || missing="$missing $target"; done
  if [ -n "$missing" ] && [ -n "${LLAMA_CPP:-}" ]; then
    echo "$LLAMA_CPP/build/bin lacks$missing" >&2
    exit 2
  fi
  LLAMA_CPP=$dir
  [ -n "$missing" ] || return 0
  if [ ! -d "$dir" ]; then
    "${PYTHON:-python3}" -m pip download --no-deps --no-binary llama-cpp-python --dest target \
      llama-cpp-python==0.3.36 >&2
    mkdir -p "$dir"
    tar xzf target/llama_cpp_python-0.3.36.tar.gz --strip-components=3 -C "$dir" \
      llama_cpp_python-0.3.36/vendor/llama.cpp
    rm -f "$dir/.git"
  fi
  local wide=()
  if grep -q avx512_vnni /proc/cpuinfo; then
    wide=(-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON)
  fi
  cmake -S "$dir" -B "$dir/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=OFF \
    -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON "${wide[@]}" \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT=0c1e57098 >&2
  # shellcheck disable=SC2086 # one word a target
  cmake --build "$dir/build" --target $missing >&2
}

# llama NAME ARG...: runs build/bin/llama-NAME with its own libraries.
llama() {
  local name=$1
  shift
  LD_LIBRARY_PATH="$LLAMA_CPP/build/bin" "$LLAMA_CPP/build/bin/llama-$name" "$@"
}
