/* Whether this ccache was handed over a moment ago: then nothing needs to be run. */
#ifndef HIPERCOW_SLURM_STAMP_H
#define HIPERCOW_SLURM_STAMP_H

#include <stdbool.h>

/* The uploader leaves a line in a file of the user's: which ccache, what it looked like, and until when that counts.
 * True if all of it still holds. Any doubt is false: then the uploader runs, which is only slower. */
bool stamp_is_fresh(void);

#endif
