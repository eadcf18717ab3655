/* shard_format: the numbers of hm-shard(5) and of zstd's seekable format, for the shard's reader
 * and writer alone. */
#ifndef HM_SHARD_FORMAT_H
#define HM_SHARD_FORMAT_H

#include <stdint.h>

#define FRONT_MAGIC    0x184D2A50u /* a skippable frame */
#define TAIL_MAGIC     0x184D2A5Eu /* the skippable frame of a seek table */
#define SEEKABLE_MAGIC 0x8F92EAB1u /* the last four bytes of the file */

static const uint8_t shard_magic[8] = {0x89, 'H', 'M', 'S', '\r', '\n', 0x1a, '\n'};

enum {
    FRONT_BYTES = 72, /* fixed part of the front frame, its magic and size included */
    INDEX_BYTES = 12, /* u64 hash and u32 size of a compressed frame */
    ENTRY_BYTES = 12, /* of the seek table */
    FOOTER_BYTES = 9,
    TAIL_HAS_CHECKSUMS = 0x80,
    FLAG_OPEN = 1,
    FLAG_REST = 2,
};

#endif
