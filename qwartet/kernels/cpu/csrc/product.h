// Products of fp32 matrices of any size and layout: what quantising a checkpoint spends its time on.
//
//   C = beta C + alpha A B            C [M, N], A [M, K], B [K, N]; A and B with any strides, so transposed as well
//
// Both factors are copied into panels of a few rows or columns, so that the innermost loop reads neighbouring values;
// a tile of C stays in registers for up to 512 products. Every value of C is summed in the same order whatever its
// place, the other sizes, or the number of threads: rows and columns do not depend on each other.
#pragma once
#include <cstdint>

namespace qw {

struct Matrix {
    const float* data;
    int64_t row, column;  // strides, in values

    Matrix transposed() const { return {data, column, row}; }
};

// Which part of a product is wanted, or known to be zero.
enum class Triangle {
    NONE,
    RESULT,  // only C[i, j] with j >= i is computed; the rest is not touched
    FACTOR,  // A[i, k] with k < i counts as zero, whatever it is
};

// c: rows of `stride` values; it may not overlap A or B. With beta 0 its old values are not read.
void product(const Matrix& a, const Matrix& b, int64_t M, int64_t N, int64_t K, float alpha, float beta, float* c,
             int64_t stride, Triangle part = Triangle::NONE);

}  // namespace qw
