// The C interface that qwartet/kernels/cpu/library.py calls through ctypes. Every function checks its sizes, holds the
// operation lock, and returns 0, or one of the codes below with nothing computed.
#include <cstring>
#include <new>

#include "decoder_layer.h"
#include "gptq.h"
#include "head.h"
#include "linear_gradient.h"
#include "measure.h"
#include "packing.h"
#include "product.h"
#include "simd.h"
#include "thread_pool.h"

using namespace qw;

namespace {

enum Status : int32_t { OK = 0, BAD_ARGUMENT = 1, NO_MEMORY = 2 };

constexpr int64_t MAX_SIZE = int64_t(1) << 31;  // of one dimension: products of two of them do not overflow

bool is_size(int64_t value, int64_t most = MAX_SIZE) { return value >= 1 && value <= most; }

bool is_valid(const PackedWeight& w) {
    return is_size(w.num_inputs) && is_size(w.num_outputs) && (w.bits == 4 || w.bits == 8) &&
           (w.unit == 32 || w.unit == 64 || w.unit == 128);
}
bool is_valid(const DenseWeight& w) { return is_size(w.num_inputs) && is_size(w.num_outputs) && w.rows; }
bool is_valid(const Linear& l) { return l.is_packed ? is_valid(l.packed) && l.packed.panels : is_valid(l.dense); }
int64_t inputs_of(const Linear& l) { return l.is_packed ? l.packed.num_inputs : l.dense.num_inputs; }
int64_t outputs_of(const Linear& l) { return l.is_packed ? l.packed.num_outputs : l.dense.num_outputs; }
bool has_shape(const Linear& l, int64_t inputs, int64_t outputs) {
    return is_valid(l) && inputs_of(l) == inputs && outputs_of(l) == outputs;
}

bool is_valid(const CacheLayer& c) {
    return c.keys && c.values && is_size(c.num_blocks) && is_size(c.num_kv_heads, 1 << 16) && c.block_size >= 16 &&
           c.block_size <= 4096 && c.block_size % 16 == 0 && is_size(c.head_dim, MAX_HEAD_DIM) && c.head_dim % 32 == 0 &&
           (c.bits == 16 || ((c.bits == 8 || c.bits == 4) && c.key_scales && c.value_scales));
}

// Every index that a kernel follows is checked here, so that none can lead outside the cache or the query rows.
bool is_valid(const AttentionBatch& b, const CacheLayer& c, int64_t num_tokens) {
    if (!is_size(b.num_requests) || !is_size(b.max_blocks) || b.cu_seqlens[0] != 0) return false;
    if (b.cu_seqlens[b.num_requests] != num_tokens) return false;
    for (int64_t r = 0; r < b.num_requests; r++) {
        const int64_t num_new = b.cu_seqlens[r + 1] - b.cu_seqlens[r], num_keys = b.seq_lens[r];
        if (num_new < 1 || num_new > num_keys || num_keys > b.max_blocks * c.block_size) return false;
        for (int64_t i = 0; i * c.block_size < num_keys; i++) {
            const int64_t block = b.block_table[r * b.max_blocks + i];
            if (block < 0 || block >= c.num_blocks) return false;
        }
    }
    return true;
}

bool is_valid(const Rotation& r, const CacheLayer& c, int64_t num_tokens, int64_t num_rows) {
    if (!r.cos || !r.sin || r.rotary_dim < 32 || r.rotary_dim % 32 || r.rotary_dim > c.head_dim) return false;
    for (int64_t t = 0; t < num_tokens; t++) {
        if (r.rope_index[t] < 0 || r.rope_index[t] >= num_rows) return false;
        if (r.slot_mapping[t] < 0 || r.slot_mapping[t] >= c.num_blocks * c.block_size) return false;
    }
    return true;
}

bool is_valid(const HeadNorms& norms) { return !norms.query == !norms.key; }

bool have_one_shape(const CacheLayer& a, const CacheLayer& b) {
    return a.num_blocks == b.num_blocks && a.num_kv_heads == b.num_kv_heads && a.block_size == b.block_size &&
           a.head_dim == b.head_dim;
}

bool is_valid(const Layer& layer, const CacheLayer& cache, int64_t hidden_size) {
    if (!is_valid(cache) || !is_size(layer.num_heads, 1 << 16) || layer.num_heads % cache.num_kv_heads) return false;
    if (layer.hidden_size != hidden_size || !is_size(layer.intermediate_size) || !is_valid(layer.head_norms)) return false;
    const int64_t width = layer.intermediate_size, query_width = int64_t(layer.num_heads) * cache.head_dim;
    const int64_t kv_width = int64_t(cache.num_kv_heads) * cache.head_dim;
    return has_shape(layer.qkv, hidden_size, query_width + 2 * kv_width) && has_shape(layer.output, query_width, hidden_size) &&
           has_shape(layer.up, hidden_size, width) && has_shape(layer.gate, hidden_size, width) &&
           has_shape(layer.down, width, hidden_size);
}

bool is_valid(const LowRank* adapters, int64_t count) {
    bool good = true;
    for (int64_t i = 0; adapters && i < count; i++) {
        const LowRank& one = adapters[i];
        good = good && one.rank >= 0 && one.rank <= MAX_RANK && (!one.rank || (one.a && one.b));
    }
    return good;
}

bool is_valid(const LayerAdapters& layer, int64_t count) {
    bool good = true;
    for (const LowRank* linear : {layer.qkv, layer.output, layer.up, layer.gate, layer.down}) good = good && is_valid(linear, count);
    return good;
}

// Which adapter each row uses.
bool is_valid_index(const int32_t* index, int64_t num_rows, int64_t num_adapters) {
    if (!index) return true;
    bool good = num_adapters >= 0 && num_adapters <= 1 << 16;
    for (int64_t m = 0; good && m < num_rows; m++) good = index[m] >= -1 && index[m] < num_adapters;
    return good;
}

template <class Body>
int32_t guarded(bool arguments_are_good, const Body& body) {
    if (!arguments_are_good) return BAD_ARGUMENT;
    try {
        const auto lock = begin_operation();
        body();
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    }
}

}  // namespace

#define QW_EXPORT extern "C" __attribute__((visibility("default")))

#ifndef QWARTET_SOURCE_HASH
#define QWARTET_SOURCE_HASH ""
#endif

QW_EXPORT const char* qw_isa() { return ISA_NAME; }
QW_EXPORT const char* qw_source_hash() { return QWARTET_SOURCE_HASH; }

// Sizes of the structures, so that the caller can reject a library with a different layout.
QW_EXPORT void qw_structure_sizes(int64_t* sizes) {
    const int64_t all[] = {sizeof(PackedWeight), sizeof(DenseWeight), sizeof(Linear), sizeof(Layer), sizeof(Rotation),
                           sizeof(CacheLayer), sizeof(AttentionBatch), sizeof(Head), sizeof(StepShape), sizeof(LowRank),
                           sizeof(LayerAdapters), sizeof(HeadNorms)};
    std::memcpy(sizes, all, sizeof all);
}

QW_EXPORT int32_t qw_num_threads() { return num_threads(); }

QW_EXPORT int32_t qw_set_num_threads(int32_t count) {
    return guarded(is_size(count, MAX_THREADS), [&] { set_num_threads(count); });
}

QW_EXPORT int64_t qw_panels_bytes(const PackedWeight* weight) {
    return is_valid(*weight) ? weight->num_panels() * weight->panel_bytes() : -1;
}

QW_EXPORT int32_t qw_pack_gptq(const PackedWeight* weight, const int32_t* qweight, const uint16_t* scales, const uint8_t* zeros,
                               int64_t num_groups, int64_t group_size, uint8_t* panels) {
    bool good = is_valid(*weight) && is_size(num_groups) && is_size(group_size) &&
                (group_size % weight->unit == 0 || num_groups == 1) &&
                (num_groups - 1) * group_size < weight->num_inputs && weight->num_inputs % (32 / weight->bits) == 0 &&
                !zeros == !weight->has_zeros;
    for (int64_t k = 0; good && weight->order && k < weight->num_inputs; k++)
        good = weight->order[k] >= 0 && weight->order[k] < weight->num_inputs;
    return guarded(good, [&] { pack_gptq(*weight, qweight, scales, zeros, num_groups, group_size, panels); });
}

QW_EXPORT int32_t qw_pack_dense(const PackedWeight* weight, const uint16_t* rows, uint8_t* panels, float* error_norms,
                                float* row_norms) {
    const bool good = is_valid(*weight) && weight->bits == 8 && weight->unit == GROUP && !weight->has_zeros && !weight->order;
    return guarded(good, [&] { pack_dense(*weight, rows, panels, error_norms, row_norms); });
}

// adapters: [num_adapters] or null; adapter_index: [M] the adapter of each row, -1 for none, or null.
QW_EXPORT int32_t qw_linear(const Linear* weight, const uint16_t* x, int64_t num_tokens, int32_t low, void* y, int32_t is_float,
                            const LowRank* adapters, int64_t num_adapters, const int32_t* adapter_index) {
    const bool good = is_valid(*weight) && is_size(num_tokens) && is_valid(adapters, num_adapters) &&
                      is_valid_index(adapter_index, num_tokens, num_adapters);
    return guarded(good, [&] {
        const RowGroups groups(adapter_index, num_tokens, num_adapters);
        const Output out{y, outputs_of(*weight), is_float ? Store::FLOAT : Store::BF16};
        linear(*weight, x, num_tokens, inputs_of(*weight), Low(low), out, adapters, groups);
    });
}

// dx [M, K] from dy [M, N], each fp32 or bf16.
QW_EXPORT int32_t qw_linear_gradient(const Linear* weight, const void* dy, int32_t dy_is_float, int64_t num_tokens, void* dx,
                                     int32_t dx_is_float) {
    bool good = is_valid(*weight) && is_size(num_tokens);
    const int32_t* order = weight->is_packed ? weight->packed.order : nullptr;
    for (int64_t k = 0; good && order && k < inputs_of(*weight); k++) good = order[k] >= 0 && order[k] < inputs_of(*weight);
    return guarded(good, [&] {
        const Gradient gradient{dy, dy_is_float != 0};
        const Output out{dx, inputs_of(*weight), dx_is_float ? Store::FLOAT : Store::BF16};
        if (weight->is_packed) quantized_linear_gradient(weight->packed, gradient, num_tokens, out);
        else dense_linear_gradient(weight->dense, gradient, num_tokens, out);
    });
}

QW_EXPORT int32_t qw_dense_linear_many(const Linear* weight, const uint16_t* x, int64_t num_tokens, float* y) {
    return guarded(is_valid(*weight) && !weight->is_packed && is_size(num_tokens), [&] {
        dense_linear_many(weight->dense, {x, false}, num_tokens, {y, weight->dense.num_outputs, Store::FLOAT});
    });
}

QW_EXPORT int32_t qw_embed(const int32_t* ids, const uint16_t* table, int64_t num_tokens, int64_t num_rows, int64_t size, float* x) {
    bool good = is_size(num_tokens) && is_size(num_rows) && is_size(size);
    for (int64_t t = 0; good && t < num_tokens; t++) good = ids[t] >= 0 && ids[t] < num_rows;
    return guarded(good, [&] { embed(ids, table, num_tokens, size, x); });
}

QW_EXPORT int32_t qw_rms_norm(const float* x, const uint16_t* weight, float eps, int64_t num_tokens, int64_t size, uint16_t* y) {
    return guarded(is_size(num_tokens) && is_size(size), [&] { rms_norm(x, weight, eps, num_tokens, size, y); });
}

QW_EXPORT int32_t qw_silu_mul(const uint16_t* up, const uint16_t* gate, int64_t count, uint16_t* h) {
    return guarded(count >= 1, [&] { silu_mul(up, gate, count, h); });
}

QW_EXPORT int32_t qw_rotate_and_store(uint16_t* qkv, int64_t num_tokens, int32_t num_heads, const HeadNorms* norms,
                                      const Rotation* rotation, int64_t num_rotary_rows, const CacheLayer* cache) {
    const bool good = is_size(num_tokens) && is_size(num_heads, 1 << 16) && is_valid(*norms) && is_valid(*cache) &&
                      is_valid(*rotation, *cache, num_tokens, num_rotary_rows);
    return guarded(good, [&] { rotate_and_store(qkv, num_tokens, num_heads, *norms, *rotation, *cache); });
}

QW_EXPORT int32_t qw_paged_attention(const uint16_t* query, int64_t query_stride, int64_t num_tokens, int32_t num_heads,
                                     const CacheLayer* cache, const AttentionBatch* batch, uint16_t* out) {
    const bool good = is_size(num_tokens) && is_valid(*cache) && is_size(num_heads, 1 << 16) && num_heads % cache->num_kv_heads == 0 &&
                      query_stride >= int64_t(num_heads) * cache->head_dim && is_valid(*batch, *cache, num_tokens);
    return guarded(good, [&] {
        paged_attention(query, query_stride, num_heads, *cache, *batch, out, int64_t(num_heads) * cache->head_dim);
    });
}

// Runs x [T, C] through layers[0] .. layers[num_layers - 1], in place. adapters: one for each layer, or null.
QW_EXPORT int32_t qw_decoder_layers(const Layer* const* layers, const CacheLayer* const* caches, int64_t num_layers, float* x,
                                    int64_t num_tokens, int64_t hidden_size, const Rotation* rotation, int64_t num_rotary_rows,
                                    const AttentionBatch* batch, int32_t low, const LayerAdapters* adapters,
                                    int64_t num_adapters, const int32_t* adapter_index) {
    bool good = is_size(num_layers, 1 << 16) && is_size(num_tokens) && is_size(hidden_size);
    for (int64_t i = 0; good && i < num_layers; i++) {
        good = is_valid(*layers[i], *caches[i], hidden_size);
        // The layers of a model have caches of one shape, so the indices need checking only once.
        const bool same = i > 0 && have_one_shape(*caches[i], *caches[0]);
        good = good && (same || (is_valid(*rotation, *caches[i], num_tokens, num_rotary_rows) &&
                                 is_valid(*batch, *caches[i], num_tokens)));
        good = good && (!adapters || is_valid(adapters[i], num_adapters));
    }
    return guarded(good && is_valid_index(adapter_index, num_tokens, num_adapters), [&] {
        const RowGroups groups(adapter_index, num_tokens, num_adapters);
        for (int64_t i = 0; i < num_layers; i++)
            decoder_layer(*layers[i], x, num_tokens, *rotation, *caches[i], *batch, Low(low),
                          adapters ? adapters[i] : LayerAdapters{}, groups);
    });
}

QW_EXPORT int32_t qw_head_argmax(const Head* head, const uint16_t* x, int64_t num_tokens, int64_t num_valid, int64_t* token_ids,
                                 int64_t* num_candidates) {
    const bool good = is_valid(head->packed) && is_valid(head->exact) && head->packed.bits == 8 && head->packed.unit == GROUP &&
                      head->packed.num_inputs == head->exact.num_inputs && head->packed.num_outputs == head->exact.num_outputs &&
                      is_size(num_tokens) && is_size(num_valid, head->exact.num_outputs);
    return guarded(good, [&] {
        head_argmax(*head, x, num_tokens, head->exact.num_inputs, num_valid, token_ids, num_candidates);
    });
}

// C [M, N] = beta C + alpha A B, fp32; the strides of A and B are in values. only_upper: Triangle::RESULT.
QW_EXPORT int32_t qw_product(const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row, int64_t b_column,
                             int64_t M, int64_t N, int64_t K, float alpha, float beta, float* c, int64_t stride,
                             int32_t only_upper) {
    const bool good = is_size(M) && is_size(N) && is_size(K) && stride >= N && (!only_upper || M == N);
    return guarded(good, [&] {
        const Triangle part = only_upper ? Triangle::RESULT : Triangle::NONE;
        product({a, a_row, a_column}, {b, b_row, b_column}, M, N, K, alpha, beta, c, stride, part);
    });
}

QW_EXPORT int32_t qw_inverse_factor(float* h, int64_t size, int32_t* is_definite) {
    return guarded(is_size(size), [&] { *is_definite = inverse_factor(h, size); });
}

QW_EXPORT int32_t qw_round_rows(float* w, int64_t rows, int64_t num_outputs, const float* factor, int64_t stride,
                                const float* scale, const float* zero, int32_t bits, uint8_t* codes) {
    const bool good = is_size(rows) && is_size(num_outputs) && stride >= rows && (bits == 4 || bits == 8);
    return guarded(good, [&] { round_rows(w, rows, num_outputs, factor, stride, {scale, zero, bits}, codes); });
}

QW_EXPORT int32_t qw_search_scale(const float* w, int64_t rows, int64_t num_outputs, const float* weight, const float* shrinks,
                                  int64_t num_shrinks, int32_t bits, float* scale, const float* zero) {
    const bool good = is_size(rows) && is_size(num_outputs) && is_size(num_shrinks) && (bits == 4 || bits == 8);
    return guarded(good, [&] { search_scale(w, rows, num_outputs, weight, shrinks, num_shrinks, bits, scale, zero); });
}

// The size of the buffers after the largest steps, and their size now.
QW_EXPORT void qw_step_bytes(const StepShape* shape, int64_t* shared, int64_t* of_thread) {
    const StepBytes bytes = step_bytes(*shape);
    *shared = bytes.shared, *of_thread = bytes.of_thread;
}

QW_EXPORT int64_t qw_scratch_held() {
    const auto lock = begin_operation();
    return scratch_held();
}

QW_EXPORT double qw_time_read(const void* data, int64_t bytes, int32_t pattern) {
    const auto lock = begin_operation();
    return time_read(data, bytes, pattern);
}

QW_EXPORT double qw_peak_operations(int32_t kind, int64_t rounds) {
    const auto lock = begin_operation();
    return peak_operations(kind, rounds);
}
