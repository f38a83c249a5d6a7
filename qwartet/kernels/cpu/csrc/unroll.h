// Loops that are unrolled before any other optimisation, so that sums in an array stay in registers. A plain loop with
// a constant bound is unrolled too, but only after GCC has decided to keep its array in memory.
#pragma once
#include <utility>

#define QW_INLINE __attribute__((always_inline))

namespace qw {

// Calls body(0), ..., body(COUNT - 1) with indices that are known at compile time. Write `[&](auto i) QW_INLINE { ... }`.
template <int COUNT, class Body>
QW_INLINE inline void unroll(const Body& body) {
    [&]<int... I>(std::integer_sequence<int, I...>) QW_INLINE {
        (body(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, COUNT>{});
}

}  // namespace qw
