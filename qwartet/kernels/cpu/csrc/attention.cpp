#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention_piece.h"
#include "exponential.h"
#include "simd.h"
#include "thread_pool.h"

namespace qw {
namespace {

constexpr int MOST_HEADS = 8;    // kv heads that a tile may span
constexpr int64_t ITEMS_OF_THREAD = 2;  // from this many on, threads take whole items
constexpr int PIECES_AHEAD = 2;  // how many pieces before its use a piece is prefetched

// The partial result of a softmax over some keys: for every row the largest score, the sum of the exponentials relative
// to it, and the values weighted by them.
struct Partials {
    float largest[TILE];
    float sum[TILE];
    float values[TILE * MAX_HEAD_DIM];  // [rows, D]
};

// A tile of query rows of one request. With few rows in each head, as when decoding, it spans several heads:
// neighbouring heads of a cache block are contiguous in memory, and long pieces are read faster than short ones.
class TileAttention {
public:
    TileAttention(const CacheLayer& cache, const int32_t* block_table, int64_t kv_head, const Queries& queries)
        : cache_(cache), block_table_(block_table), first_head_(kv_head), dim_(cache.head_dim), queries_(queries) {
        weights_ = static_cast<float*>(thread_scratch(attention_bytes_of_thread()));
        wide_values_ = weights_ + TILE * CHUNK;
    }

    // The softmax of every row over its keys among start .. start + CHUNK - 1; a row without any has sum 0.
    void chunk(int64_t start, Partials& out) {
        int64_t num_keys = 0;
        for (int r = 0; r < queries_.count; r++) num_keys = std::max(num_keys, num_seen(r, start));
        for (int64_t j = 0; j < num_keys; j += KEYS) score(start + j, j, num_keys - j);
        for (int r = 0; r < queries_.count; r++)
            exponentiate(weights_ + r * CHUNK, num_seen(r, start), num_keys, out.largest[r], out.sum[r]);
        std::memset(out.values, 0, 4 * queries_.count * dim_);
        for (int64_t j = 0; j < num_keys; j += KEYS)
            for (int head = 0; head < num_heads(); head++) weigh(start + j, head, j, num_keys - j, out.values);
    }

private:
    int64_t num_seen(int row, int64_t start) const {
        return std::clamp(queries_.num_keys[row] - start, int64_t(0), CHUNK);
    }

    int num_heads() const { return queries_.count / queries_.rows_of_head; }

    int64_t place(int64_t key, int head) const {
        return cache_.at(block_table_[key / cache_.block_size], first_head_ + head, key % cache_.block_size);
    }

    // The distance in bytes to the piece PIECES_AHEAD later; 0 at the end of a chunk.
    int64_t bytes_ahead(int64_t key, int head, int64_t left) const {
        const int piece = head + PIECES_AHEAD, keys_further = piece / num_heads() * KEYS;
        if (keys_further && left <= keys_further) return 0;
        return cache_.bytes(place(key + keys_further, piece % num_heads()) - place(key, head));
    }

    // The address of the keys, or values, of up to KEYS tokens in one head. 4-bit codes are unpacked on the way, so only
    // two kinds remain.
    struct Piece {
        const void* data;     // bf16 or int8
        const float* scales;  // null for bf16
        int64_t ahead;        // bytes to the piece to prefetch
    };

    Piece piece(const void* data, const float* scales, int64_t key, int head, int64_t left) {
        const int64_t at = place(key, head), ahead = bytes_ahead(key, head, left);
        const uint8_t* first = static_cast<const uint8_t*>(data) + cache_.bytes(at);
        if (cache_.bits == 16) return {first, nullptr, ahead};
        if (cache_.bits == 8) return {first, scales + at / dim_, ahead};
        unpack(first, dim_, ahead, codes_);
        return {codes_, scales + at / dim_, 0};
    }

    void score(int64_t key, int64_t column, int64_t left) {
        const F32 scale = set_f32(1.0f / std::sqrt(float(dim_)));
        for (int head = 0; head < num_heads(); head++) {
            const Piece keys = piece(cache_.keys, cache_.key_scales, key, head, left);
            const int end = (head + 1) * queries_.rows_of_head;
            int r = head * queries_.rows_of_head;
            const auto next_rows = [&]<int ROWS, bool FETCHES>() QW_INLINE {
                F32 found[ROWS];
                scores<ROWS, FETCHES>(r, keys, found);
                for (int i = 0; i < ROWS; i++, r++) store_f32(weights_ + r * CHUNK + column, mul(found[i], scale));
            };
            if (r + SCORE_ROWS <= end)
                next_rows.template operator()<SCORE_ROWS, true>();
            else
                next_rows.template operator()<1, true>();
            while (r + SCORE_ROWS <= end) next_rows.template operator()<SCORE_ROWS, false>();
            while (r < end) next_rows.template operator()<1, false>();
        }
    }

    template <int ROWS, bool FETCHES>
    void scores(int row, const Piece& keys, F32* found) const {
        if (!keys.scales)
            return scores_of_bf16<ROWS, FETCHES>(queries_.bf16 + row, static_cast<const uint16_t*>(keys.data), dim_,
                                                 keys.ahead, found);
        const auto* codes = static_cast<const int8_t*>(keys.data);
        found[0] = scores_of_int8<FETCHES>(queries_, row, codes, keys.scales, dim_, keys.ahead);
        for (int i = 1; i < ROWS; i++)
            found[i] = scores_of_int8<false>(queries_, row + i, codes, keys.scales, dim_, keys.ahead);
    }

    // Scores of a row -> exponentials relative to the largest; 0 for keys that the row does not see.
    void exponentiate(float* weights, int64_t seen, int64_t num_keys, float& largest, float& sum) {
        const int64_t end = (num_keys + KEYS - 1) / KEYS * KEYS;
        std::fill(weights + seen, weights + end, -INFINITY);
        F32 most = set_f32(-INFINITY), total = set_f32(0);
        for (int64_t j = 0; j < seen; j += KEYS) most = max(most, load_f32(weights + j));
        largest = reduce_max(most);
        for (int64_t j = 0; j < seen; j += KEYS) {
            store_f32(weights + j, exp(sub(load_f32(weights + j), set_f32(largest))));
            if (seen - j < KEYS) std::fill(weights + seen, weights + j + KEYS, 0.0f);  // e^-inf is only almost 0 here
            total = qw::add(total, load_f32(weights + j));
        }
        std::fill(weights + (seen + KEYS - 1) / KEYS * KEYS, weights + end, 0.0f);
        sum = reduce_add(total);
    }

    void weigh(int64_t key, int head, int64_t column, int64_t left, float* sums) {
        const int count = int(std::min(left, int64_t(KEYS))), rows = queries_.rows_of_head;
        const Piece values = piece(cache_.values, cache_.value_scales, key, head, left);
        float* weights = weights_ + head * rows * CHUNK + column;
        sums += head * rows * dim_;
        for (int r = 0; r < rows && values.scales; r++)
            store_f32(weights + r * CHUNK, mul(load_f32(weights + r * CHUNK), load_f32(values.scales)));
        const Values<int8_t> int8_values{static_cast<const int8_t*>(values.data), values.ahead};
        const Values<uint16_t> bf16_values{static_cast<const uint16_t*>(values.data), values.ahead};
        const Values<float> wide{wide_values_, 0};
        if (rows == 1) {
            values.scales ? add_all_values<1>(int8_values, count, dim_, weights, sums)
                          : add_all_values<1>(bf16_values, count, dim_, weights, sums);
            return;
        }
        values.scales ? widen(int8_values, count * dim_) : widen(bf16_values, count * dim_);
        int r = 0;
        for (; r + VALUE_ROWS <= rows; r += VALUE_ROWS)
            add_all_values<VALUE_ROWS>(wide, count, dim_, weights + r * CHUNK, sums + r * dim_);
        for (; r < rows; r++)
            add_all_values<1>(wide, count, dim_, weights + r * CHUNK, sums + r * dim_);
    }

    template <class Value>
    void widen(const Values<Value>& values, int count) {
        constexpr int LINE = 64 / sizeof(Value);
        for (int line = 0; line < count; line += LINE) {
            values.fetch_line(line);
            for (int i = line; i < std::min(line + LINE, count); i += 16) store_f32(wide_values_ + i, values.load(i));
        }
    }

    const CacheLayer& cache_;
    const int32_t* block_table_;
    const int64_t first_head_;
    const int dim_;
    const Queries& queries_;
    float* weights_;      // [TILE, CHUNK] scores, then exponentials
    float* wide_values_;  // [KEYS, D] values as floats, for several rows
    alignas(64) int8_t codes_[KEYS * MAX_HEAD_DIM];  // an unpacked piece
};

// Merges the partial softmax of later keys into that of earlier ones.
void merge(Partials& into, const Partials& later, int rows, int dim) {
    for (int r = 0; r < rows; r++) {
        if (later.sum[r] == 0) continue;  // sees none of those keys
        const float largest = std::max(into.largest[r], later.largest[r]);
        float factors[16] = {into.largest[r] - largest, later.largest[r] - largest};
        store_f32(factors, exp(load_f32(factors)));
        into.largest[r] = largest;
        into.sum[r] = into.sum[r] * factors[0] + later.sum[r] * factors[1];
        for (int d = r * dim; d < (r + 1) * dim; d += 16)
            store_f32(into.values + d, fma(load_f32(into.values + d), set_f32(factors[0]),
                                           mul(load_f32(later.values + d), set_f32(factors[1]))));
    }
}

// A tile: of each of its kv heads, rows first_row .. + rows_of_head of the (new token, head of the group) pairs of a request.
struct Item {
    int64_t request, kv_head, first_row;
    int num_heads, rows_of_head;
    int64_t num_chunks;

    int count() const { return num_heads * rows_of_head; }
};

class Attention {
public:
    Attention(const uint16_t* query, int64_t query_stride, int32_t num_heads, const CacheLayer& cache,
              const AttentionBatch& batch, uint16_t* out, int64_t out_stride)
        : query_(query), query_stride_(query_stride), heads_of_group_(num_heads / cache.num_kv_heads), cache_(cache),
          batch_(batch), out_(out), out_stride_(out_stride) {
        for (int64_t b = 0; b < batch.num_requests; b++) {
            const int64_t rows = (batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]) * heads_of_group_;
            const int heads = rows <= TILE / 2 ? int(std::min<int64_t>(TILE / rows, MOST_HEADS)) : 1;
            // Late tiles see the most keys: they start first, so that the threads finish together.
            for (int64_t row = (rows - 1) / TILE * TILE; row >= 0; row -= TILE)
                for (int64_t head = 0; head < cache.num_kv_heads; head += heads) {
                    const int num_heads = int(std::min<int64_t>(heads, cache.num_kv_heads - head));
                    Item item{b, head, row, num_heads, int(std::min(rows - row, int64_t(TILE))), 0};
                    item.num_chunks = (keys_of_row(item, item.rows_of_head - 1) + CHUNK - 1) / CHUNK;
                    items_.push_back(item);
                }
        }
    }

    void run() {
        if (int64_t(items_.size()) >= ITEMS_OF_THREAD * num_threads()) {
            parallel_for(items_.size(), [&](int64_t i) { whole_item(items_[i]); });
        } else {
            split_over_keys();
        }
    }

private:
    int64_t row_of_request(const Item& item, int row) const { return item.first_row + row % item.rows_of_head; }
    int64_t token_of_row(const Item& item, int row) const {
        return batch_.cu_seqlens[item.request] + row_of_request(item, row) / heads_of_group_;
    }
    int64_t head_of_row(const Item& item, int row) const {
        return (item.kv_head + row / item.rows_of_head) * heads_of_group_ + row_of_request(item, row) % heads_of_group_;
    }
    int64_t keys_of_row(const Item& item, int row) const {
        const int64_t num_new = batch_.cu_seqlens[item.request + 1] - batch_.cu_seqlens[item.request];
        return batch_.seq_lens[item.request] - num_new + row_of_request(item, row) / heads_of_group_ + 1;
    }

    void load_queries(const Item& item, Queries& queries) const {
        queries.count = item.count();
        queries.rows_of_head = item.rows_of_head;
        for (int r = 0; r < item.count(); r++) {
            queries.num_keys[r] = keys_of_row(item, r);
            queries.set(r, query_ + token_of_row(item, r) * query_stride_ + head_of_row(item, r) * cache_.head_dim,
                        cache_.head_dim, cache_.bits);
        }
    }

    void compute(const Item& item, int64_t first_chunk, int64_t end_chunk, Partials& result) const {
        Queries queries;
        Partials later;
        load_queries(item, queries);
        TileAttention tile(cache_, batch_.block_table + item.request * batch_.max_blocks, item.kv_head, queries);
        tile.chunk(first_chunk * CHUNK, result);
        for (int64_t chunk = first_chunk + 1; chunk < end_chunk; chunk++) {
            tile.chunk(chunk * CHUNK, later);
            merge(result, later, item.count(), cache_.head_dim);
        }
    }

    void finish(const Item& item, Partials& result) const {
        for (int r = 0; r < item.count(); r++) {
            uint16_t* out = out_ + token_of_row(item, r) * out_stride_ + head_of_row(item, r) * cache_.head_dim;
            float* values = result.values + r * cache_.head_dim;
            if (cache_.bits != 16) hadamard(values, cache_.head_dim);  // the transform is its own inverse
            for (int d = 0; d < cache_.head_dim; d += 16)
                store_bf16(out + d, div(load_f32(values + d), set_f32(result.sum[r])));
        }
    }

    void whole_item(const Item& item) const {
        Partials result;
        compute(item, 0, item.num_chunks, result);
        finish(item, result);
    }

    // Few rows and many keys: every chunk is a task, and the parts are merged in the order of a single thread.
    void split_over_keys() {
        std::vector<int64_t> first_task;
        int64_t num_tasks = 0;
        for (const Item& item : items_) {
            first_task.push_back(num_tasks);
            num_tasks += item.num_chunks;
        }
        auto* partials = static_cast<Partials*>(scratch(Scratch::attention, num_tasks * sizeof(Partials)));
        parallel_for(num_tasks, [&](int64_t task) {
            const int64_t i = std::upper_bound(first_task.begin(), first_task.end(), task) - first_task.begin() - 1;
            const int64_t chunk = task - first_task[i];
            compute(items_[i], chunk, chunk + 1, partials[task]);
        });
        parallel_for(items_.size(), [&](int64_t i) {
            Partials& result = partials[first_task[i]];
            for (int64_t chunk = 1; chunk < items_[i].num_chunks; chunk++)
                merge(result, partials[first_task[i] + chunk], items_[i].count(), cache_.head_dim);
            finish(items_[i], result);
        });
    }

    const uint16_t* query_;
    const int64_t query_stride_;
    const int64_t heads_of_group_;
    const CacheLayer& cache_;
    const AttentionBatch& batch_;
    uint16_t* out_;
    const int64_t out_stride_;
    std::vector<Item> items_;
};

}  // namespace

int64_t attention_bytes(int64_t context, int threads) {
    // With more items than this, threads take whole items and no partial results are kept.
    return (ITEMS_OF_THREAD * threads - 1) * ((context + CHUNK - 1) / CHUNK) * sizeof(Partials);
}

int64_t attention_bytes_of_thread() { return 4 * (TILE * CHUNK + KEYS * MAX_HEAD_DIM); }

void paged_attention(const uint16_t* query, int64_t query_stride, int32_t num_heads, const CacheLayer& cache,
                     const AttentionBatch& batch, uint16_t* out, int64_t out_stride) {
    Attention(query, query_stride, num_heads, cache, batch, out, out_stride).run();
}

}  // namespace qw
