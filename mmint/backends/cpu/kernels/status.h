/* What a kernel returns where it has no result: below every exponent and every other result. */
#ifndef MMINT_STATUS_H
#define MMINT_STATUS_H

enum { OK = 0, NOT_FINITE = -(1 << 20), NO_MEMORY = -(1 << 21) };

#endif
