// Chooses the vector operations by what this copy of the library is compiled for. A further instruction set is one more
// simd_*.h with the same names, a line here, and an entry in kernels/cpu/build.py.
#pragma once
#if defined(QWARTET_ISA_AVX512)
#include "simd_avx512.h"
#elif defined(QWARTET_ISA_AVX2)
#include "simd_avx2.h"
#else
#include "simd_scalar.h"
#endif
