// exp and silu of 16 floats.
#pragma once
#include <initializer_list>

#include "simd.h"

namespace qw {

// e^x to within 2 units in the last place for x in -87 .. 88, 0 below and the largest of them above:
// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and e^r by its Taylor polynomial of degree 6.
inline F32 exp(F32 x) {
    x = min(set_f32(88.0f), max(set_f32(-104.0f), x));  // in this order a NaN stays one
    F32 n = round(mul(x, set_f32(1.44269504f)));
    F32 r = fma(n, set_f32(-0.693359375f), x);  // ln 2 in two parts, so that n times it is exact
    r = fma(n, set_f32(2.12194440e-4f), r);
    F32 p = set_f32(1.0f / 720);
    for (float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = fma(p, r, set_f32(c));
    return scale_by_power_of_2(p, n);
}

// x / (1 + e^-x)
inline F32 silu(F32 x) { return div(x, add(set_f32(1), exp(sub(set_f32(0), x)))); }

}  // namespace qw
