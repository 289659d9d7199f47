"""Several calls of libkrb5 as one: what every connection, message and renewal of the cache goes through.

A call from Python costs 0.5 to 1 us beside what it does, a field of a struct 0.1 us: more, in sum, than sealing a
message. And with other threads about, the interpreter lock is got back after one call, not after each of ten.
``SOURCE`` is C for the compiled module and no more than those calls one after the other; the bytes in it are
libkrb5's to understand. The fallback without compiler has the same functions in Python (``plain.py``).

A result that is larger than ``size`` is lost, and ``made`` says so by being larger too: give room enough.
"""

from __future__ import annotations

DECLARATIONS = """
krb5_error_code hipercow_slurm_begin(krb5_context, int32_t flags, krb5_address *own, krb5_address *peer,
    krb5_auth_context *);
krb5_error_code hipercow_slurm_accept(krb5_context, int32_t flags, krb5_address *own, krb5_address *peer,
    krb5_auth_context *, const char *data, size_t length, krb5_const_principal server, krb5_keytab, int32_t *options,
    char *out, size_t size, size_t *made, char *client, size_t client_size);
krb5_error_code hipercow_slurm_seal(krb5_context, krb5_auth_context, const char *data, size_t length,
    char *out, size_t size, size_t *made);
krb5_error_code hipercow_slurm_unseal(krb5_context, krb5_auth_context, const char *data, size_t length,
    char *out, size_t size, size_t *made);
krb5_error_code hipercow_slurm_renew(krb5_context, hipercow_slurm_line *, const char *data, size_t length,
    char *out, size_t size, size_t *made, int32_t *told);
typedef struct { int32_t next, count, done, failed; } hipercow_slurm_turn;
int32_t hipercow_slurm_claim(hipercow_slurm_turn *);
int32_t hipercow_slurm_end(hipercow_slurm_turn *);
int32_t hipercow_slurm_done(hipercow_slurm_turn *);
krb5_error_code hipercow_slurm_renew_each(krb5_context, hipercow_slurm_line *, hipercow_slurm_turn *,
    const char *const *data, const size_t *length, char *out, size_t size, size_t *made, int32_t *told, double *took);
"""

SOURCE = r"""
#include <krb5.h>
#include <string.h>
#include <time.h>

/* An auth context; addresses NULL: without. */
static krb5_error_code
hipercow_slurm_begin(krb5_context context, int32_t flags, krb5_address *own, krb5_address *peer,
                     krb5_auth_context *auth)
{
    krb5_error_code code = krb5_auth_con_init(context, auth);
    if (code)
        return code;
    code = krb5_auth_con_setflags(context, *auth, flags);
    if (!code && own)
        code = krb5_auth_con_setaddrs(context, *auth, own, peer);
    if (code) {
        krb5_auth_con_free(context, *auth);
        *auth = NULL;
    }
    return code;
}

static krb5_error_code
given_out(krb5_context context, krb5_data *result, char *out, size_t size, size_t *made)
{
    *made = result->length;
    if (result->length > 0 && result->length <= size)
        memcpy(out, result->data, result->length);
    krb5_free_data_contents(context, result);
    return 0;
}

/* Our subkey is the key of KRB-PRIVs in both directions, but libkrb5 makes two krb5_keys of it, each with what is
 * derived from it when first used. */
static krb5_error_code
one_subkey(krb5_context context, krb5_auth_context auth)
{
    krb5_key key = NULL;
    krb5_error_code code = krb5_auth_con_getrecvsubkey_k(context, auth, &key);
    if (!code && key)
        code = krb5_auth_con_setsendsubkey_k(context, auth, key);
    krb5_k_free_key(context, key);
    return code;
}

static krb5_error_code
accepted_by(krb5_context context, krb5_auth_context auth, krb5_data *given, krb5_const_principal server,
            krb5_keytab keys, int32_t *options, krb5_data *answer, char *client, size_t client_size)
{
    krb5_authenticator *authenticator = NULL;
    char *name = NULL;
    krb5_error_code code = krb5_rd_req(context, &auth, given, server, keys, options, NULL);
    if (!code)
        code = krb5_auth_con_getauthenticator(context, auth, &authenticator);
    if (code)
        return code;
    code = krb5_unparse_name(context, authenticator->client, &name);
    krb5_free_authenticator(context, authenticator);
    if (code)
        return code;
    *client = '\0';
    if (strlen(name) < client_size)
        strcpy(client, name);
    krb5_free_unparsed_name(context, name);
    code = krb5_mk_rep(context, auth, answer);
    return code ? code : one_subkey(context, auth);
}

/* Check an AP-REQ and make the AP-REP, in a new auth context. client: who it is as krb5_unparse_name writes it; empty
 * if there is no room. */
static krb5_error_code
hipercow_slurm_accept(krb5_context context, int32_t flags, krb5_address *own, krb5_address *peer,
                      krb5_auth_context *auth, const char *data, size_t length, krb5_const_principal server,
                      krb5_keytab keys, int32_t *options, char *out, size_t size, size_t *made, char *client,
                      size_t client_size)
{
    krb5_data given = { 0, (unsigned int)length, (char *)data }, answer = { 0, 0, NULL };
    krb5_error_code code = hipercow_slurm_begin(context, flags, own, peer, auth);
    if (code)
        return code;
    code = accepted_by(context, *auth, &given, server, keys, options, &answer, client, client_size);
    if (!code)
        return given_out(context, &answer, out, size, made);
    krb5_auth_con_free(context, *auth);
    *auth = NULL;
    return code;
}

static krb5_error_code
hipercow_slurm_seal(krb5_context context, krb5_auth_context auth, const char *data, size_t length,
                    char *out, size_t size, size_t *made)
{
    krb5_data given = { 0, (unsigned int)length, (char *)data }, result = { 0, 0, NULL };
    krb5_error_code code = krb5_mk_priv(context, auth, &given, &result, NULL);
    return code ? code : given_out(context, &result, out, size, made);
}

static krb5_error_code
hipercow_slurm_unseal(krb5_context context, krb5_auth_context auth, const char *data, size_t length,
                      char *out, size_t size, size_t *made)
{
    krb5_data given = { 0, (unsigned int)length, (char *)data }, result = { 0, 0, NULL };
    krb5_error_code code = krb5_rd_priv(context, auth, &given, &result, NULL);
    return code ? code : given_out(context, &result, out, size, made);
}

/* Ask for it; again without line if an answer that came over it is of no use. */
static krb5_error_code
asked_for(krb5_context context, hipercow_slurm_line *line, krb5_principal client, krb5_ccache ccache,
          krb5_creds *fresh)
{
    if (line && line->fd >= 0) {
        uint32_t before = line->answered;
        krb5_error_code code;
        krb5_set_kdc_send_hook(context, over_line, line);
        code = krb5_get_renewed_creds(context, fresh, client, ccache, NULL);
        krb5_set_kdc_send_hook(context, NULL, NULL);
        if (!code || line->answered == before)
            return code;
        line->fd = -1;
    }
    return krb5_get_renewed_creds(context, fresh, client, ccache, NULL);
}

/* What one renewal leaves for the next: no keys. */
typedef struct {
    krb5_auth_context auth;
    krb5_ccache ccache;
} hipercow_slurm_means;

static krb5_error_code
means_made(krb5_context context, hipercow_slurm_means *means)
{
    memset(means, 0, sizeof *means);
    krb5_error_code code = hipercow_slurm_begin(context, 0, NULL, NULL, &means->auth);
    return code ? code : krb5_cc_new_unique(context, "MEMORY", NULL, &means->ccache);
}

static void
means_freed(krb5_context context, hipercow_slurm_means *means)
{
    if (means->ccache)
        krb5_cc_destroy(context, means->ccache);
    if (means->auth)
        krb5_auth_con_free(context, means->auth);
}

/* What the KDC gives for the TGT found. */
static krb5_error_code
renewed_by(krb5_context context, krb5_ccache ccache, hipercow_slurm_line *line, krb5_creds *found, krb5_creds *fresh)
{
    krb5_error_code code;
    if (!(found->ticket_flags & TKT_FLG_RENEWABLE))
        return KRB5KDC_ERR_BADOPTION; /* what a KDC would say */
    code = krb5_cc_initialize(context, ccache, found->client);
    if (!code)
        code = krb5_cc_store_cred(context, ccache, found);
    if (!code)
        code = asked_for(context, line, found->client, ccache, fresh);
    /* Of whom, and for whom: a KDC could have sent us elsewhere. */
    if (!code && !(krb5_principal_compare(context, found->client, fresh->client)
                   && krb5_principal_compare(context, found->server, fresh->server)))
        code = KRB5_KDCREP_MODIFIED;
    return code;
}

static krb5_error_code
renewed_with(krb5_context context, hipercow_slurm_means *means, hipercow_slurm_line *line, const char *data,
             size_t length, char *out, size_t size, size_t *made, int32_t *told)
{
    krb5_data given = { 0, (unsigned int)length, (char *)data }, *answer = NULL;
    krb5_creds **found = NULL, fresh;
    krb5_error_code code = krb5_rd_cred(context, means->auth, &given, &found, NULL);
    memset(&fresh, 0, sizeof fresh);
    if (!code)
        code = renewed_by(context, means->ccache, line, found[0], &fresh);
    if (!code)
        code = krb5_mk_1cred(context, means->auth, &fresh, &answer, NULL);
    if (!code) {
        told[0] = fresh.times.authtime;
        told[1] = fresh.times.starttime;
        told[2] = fresh.times.endtime;
        told[3] = fresh.times.renew_till;
        told[4] = fresh.keyblock.enctype;
        told[5] = (int32_t)fresh.keyblock.length;
        told[6] = fresh.addresses != NULL;
        given_out(context, answer, out, size, made);
        krb5_free_data(context, answer);
    }
    krb5_free_cred_contents(context, &fresh);
    krb5_free_tgt_creds(context, found);
    return code;
}

/* Renew the first ticket of a KRB-CRED in clear, a TGT; the new one as a KRB-CRED in clear. data was checked before:
 * krb5_rd_cred would crash on some. line: see line.py; NULL for none. told: authtime, starttime, endtime, renew_till,
 * type and length of the session key, and whether it is bound to addresses. */
static krb5_error_code
hipercow_slurm_renew(krb5_context context, hipercow_slurm_line *line, const char *data, size_t length, char *out,
                     size_t size, size_t *made, int32_t *told)
{
    hipercow_slurm_means means;
    krb5_error_code code = means_made(context, &means);
    if (!code)
        code = renewed_with(context, &means, line, data, length, out, size, made, told);
    means_freed(context, &means);
    return code;
}

/* Several in turn: next is the one to begin with, done how many of them there is a result of, failed the last one
 * without. The thread that ends a turn is not the one that is at work on it. */
typedef struct {
    int32_t next, count, done, failed;
} hipercow_slurm_turn;

enum { HIPERCOW_SLURM_TOLD = 7, HIPERCOW_SLURM_ROOM = 34 * 1024 };

/* The number of the next one, -1 if there is none (any more). */
static int32_t
hipercow_slurm_claim(hipercow_slurm_turn *turn)
{
    int32_t mine = __atomic_load_n(&turn->next, __ATOMIC_SEQ_CST);
    while (mine < turn->count)
        if (__atomic_compare_exchange_n(&turn->next, &mine, mine + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            return mine;
    return -1;
}

/* None is begun any more; how many were. */
static int32_t
hipercow_slurm_end(hipercow_slurm_turn *turn)
{
    return __atomic_exchange_n(&turn->next, turn->count, __ATOMIC_SEQ_CST);
}

static int32_t
hipercow_slurm_done(hipercow_slurm_turn *turn)
{
    return __atomic_load_n(&turn->done, __ATOMIC_SEQ_CST);
}

/* hipercow_slurm_renew for each, results one behind the other; comes back for one that fails, and while out has room
 * for another. took: seconds. */
static krb5_error_code
hipercow_slurm_renew_each(krb5_context context, hipercow_slurm_line *line, hipercow_slurm_turn *turn,
                          const char *const *data, const size_t *length, char *out, size_t size, size_t *made,
                          int32_t *told, double *took)
{
    hipercow_slurm_means means;
    krb5_error_code code = means_made(context, &means);
    int32_t mine;
    turn->failed = -1;
    while (size >= HIPERCOW_SLURM_ROOM && (mine = hipercow_slurm_claim(turn)) >= 0) {
        struct timespec begin, end;
        turn->failed = mine;
        if (code)
            break;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        code = renewed_with(context, &means, line, data[mine], length[mine], out, size, &made[mine],
                            told + HIPERCOW_SLURM_TOLD * mine);
        clock_gettime(CLOCK_MONOTONIC, &end);
        took[mine] = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
        if (!code && made[mine] > size)
            code = KRB5_BAD_MSIZE;
        if (code)
            break;
        out += made[mine];
        size -= made[mine];
        __atomic_store_n(&turn->done, mine + 1, __ATOMIC_SEQ_CST);
    }
    means_freed(context, &means);
    return code;
}
"""
