"""What we use of libkrb5, as C declarations: the same text for the compiled module and for the dlopen fallback.

Declarations follow krb5.h of MIT krb5 1.18 and later, written out in full (no "..."), because the fallback has only
this text. The compiled module checks every layout and constant against the real header.
"""

from __future__ import annotations

from hipercow_slurm.krb5 import codes

TYPES = """
typedef int32_t krb5_error_code;
typedef struct _krb5_context *krb5_context;
typedef struct _krb5_auth_context *krb5_auth_context;
typedef struct _krb5_ccache *krb5_ccache;
typedef struct _krb5_kt *krb5_keytab;
typedef struct _krb5_init_creds_context *krb5_init_creds_context;
typedef struct _krb5_get_init_creds_opt krb5_get_init_creds_opt;
typedef struct krb5_replay_data krb5_replay_data;
typedef struct _krb5_ticket krb5_ticket;
typedef struct _krb5_checksum krb5_checksum;
typedef struct _krb5_authdata krb5_authdata;
typedef struct _krb5_ap_rep_enc_part krb5_ap_rep_enc_part;
typedef void *krb5_cc_cursor;
typedef struct _krb5_cccol_cursor *krb5_cccol_cursor;
typedef void *krb5_kt_cursor;

typedef struct _krb5_data { int32_t magic; unsigned int length; char *data; } krb5_data;
typedef struct krb5_principal_data {
    int32_t magic; krb5_data realm; krb5_data *data; int32_t length; int32_t type;
} krb5_principal_data;
typedef krb5_principal_data *krb5_principal;
typedef const krb5_principal_data *krb5_const_principal;
typedef struct _krb5_keyblock {
    int32_t magic; int32_t enctype; unsigned int length; unsigned char *contents;
} krb5_keyblock;
typedef struct _krb5_crypto_iov { int32_t flags; krb5_data data; } krb5_crypto_iov;
typedef struct _krb5_address {
    int32_t magic; int32_t addrtype; unsigned int length; unsigned char *contents;
} krb5_address;
typedef struct _krb5_ticket_times {
    int32_t authtime; int32_t starttime; int32_t endtime; int32_t renew_till;
} krb5_ticket_times;
typedef struct _krb5_creds {
    int32_t magic; krb5_principal client; krb5_principal server; krb5_keyblock keyblock; krb5_ticket_times times;
    unsigned int is_skey; int32_t ticket_flags; krb5_address **addresses; krb5_data ticket;
    krb5_data second_ticket; krb5_authdata **authdata;
} krb5_creds;
typedef struct _krb5_authenticator {
    int32_t magic; krb5_principal client; krb5_checksum *checksum; int32_t cusec; int32_t ctime;
    krb5_keyblock *subkey; uint32_t seq_number; krb5_authdata **authorization_data;
} krb5_authenticator;
typedef struct _krb5_error {
    int32_t magic; int32_t ctime; int32_t cusec; int32_t susec; int32_t stime; uint32_t error;
    krb5_principal client; krb5_principal server; krb5_data text; krb5_data e_data;
} krb5_error;
typedef struct krb5_keytab_entry_st {
    int32_t magic; krb5_principal principal; int32_t timestamp; unsigned int vno; krb5_keyblock key;
} krb5_keytab_entry;
typedef struct _krb5_prompt { char *prompt; int hidden; krb5_data *reply; } krb5_prompt;
typedef struct _krb5_verify_init_creds_opt { int32_t flags; int ap_req_nofail; } krb5_verify_init_creds_opt;
"""

CONSTANTS = """
#define AP_OPTS_MUTUAL_REQUIRED 0x20000000
#define AP_OPTS_USE_SUBKEY 0x00000001
#define KRB5_FAST_REQUIRED 0x0001
#define TKT_FLG_RENEWABLE 0x00800000
#define KRB5_AUTH_CONTEXT_DO_SEQUENCE 0x00000004
#define KRB5_AUTH_CONTEXT_USE_SUBKEY 0x00000020
#define KRB5_TC_MATCH_TIMES_EXACT 0x00000008
"""

CONTEXT = """
krb5_error_code krb5_init_context(krb5_context *);
void krb5_free_context(krb5_context);
const char *krb5_get_error_message(krb5_context, krb5_error_code);
void krb5_free_error_message(krb5_context, const char *);
krb5_error_code krb5_get_time_offsets(krb5_context, int32_t *, int32_t *);
void krb5_free_data_contents(krb5_context, krb5_data *);
void krb5_free_data(krb5_context, krb5_data *);
"""

NAMES = """
krb5_error_code krb5_parse_name(krb5_context, const char *, krb5_principal *);
void krb5_free_principal(krb5_context, krb5_principal);
krb5_error_code krb5_get_default_realm(krb5_context, char **);
void krb5_free_default_realm(krb5_context, char *);
unsigned int krb5_principal_compare(krb5_context, krb5_const_principal, krb5_const_principal);
krb5_error_code krb5_aname_to_localname(krb5_context, krb5_const_principal, int, char *);
"""

CCACHE = """
krb5_error_code krb5_cc_resolve(krb5_context, const char *, krb5_ccache *);
krb5_error_code krb5_cc_default(krb5_context, krb5_ccache *);
krb5_error_code krb5_cc_new_unique(krb5_context, const char *, const char *, krb5_ccache *);
krb5_error_code krb5_cc_initialize(krb5_context, krb5_ccache, krb5_principal);
krb5_error_code krb5_cc_store_cred(krb5_context, krb5_ccache, krb5_creds *);
krb5_error_code krb5_cc_remove_cred(krb5_context, krb5_ccache, int32_t, krb5_creds *);
krb5_error_code krb5_cc_destroy(krb5_context, krb5_ccache);
krb5_error_code krb5_cc_close(krb5_context, krb5_ccache);
krb5_error_code krb5_cc_get_principal(krb5_context, krb5_ccache, krb5_principal *);
krb5_error_code krb5_cc_start_seq_get(krb5_context, krb5_ccache, krb5_cc_cursor *);
krb5_error_code krb5_cc_next_cred(krb5_context, krb5_ccache, krb5_cc_cursor *, krb5_creds *);
krb5_error_code krb5_cc_switch(krb5_context, krb5_ccache);
krb5_error_code krb5_timeofday(krb5_context, int32_t *);
krb5_error_code krb5_set_real_time(krb5_context, int32_t, int32_t);
krb5_error_code krb5_cc_get_full_name(krb5_context, krb5_ccache, char **);
krb5_error_code krb5_cccol_cursor_new(krb5_context, krb5_cccol_cursor *);
krb5_error_code krb5_cccol_cursor_next(krb5_context, krb5_cccol_cursor, krb5_ccache *);
krb5_error_code krb5_cccol_cursor_free(krb5_context, krb5_cccol_cursor *);
krb5_error_code krb5_cc_end_seq_get(krb5_context, krb5_ccache, krb5_cc_cursor *);
"""

KEYTAB = """
krb5_error_code krb5_kt_resolve(krb5_context, const char *, krb5_keytab *);
krb5_error_code krb5_kt_close(krb5_context, krb5_keytab);
krb5_error_code krb5_kt_start_seq_get(krb5_context, krb5_keytab, krb5_kt_cursor *);
krb5_error_code krb5_kt_next_entry(krb5_context, krb5_keytab, krb5_keytab_entry *, krb5_kt_cursor *);
krb5_error_code krb5_kt_add_entry(krb5_context, krb5_keytab, krb5_keytab_entry *);
krb5_error_code krb5_kt_end_seq_get(krb5_context, krb5_keytab, krb5_kt_cursor *);
krb5_error_code krb5_free_keytab_entry_contents(krb5_context, krb5_keytab_entry *);
"""

CREDS = """
krb5_error_code krb5_get_init_creds_opt_alloc(krb5_context, krb5_get_init_creds_opt **);
void krb5_get_init_creds_opt_free(krb5_context, krb5_get_init_creds_opt *);
void krb5_get_init_creds_opt_set_tkt_life(krb5_get_init_creds_opt *, int32_t);
void krb5_get_init_creds_opt_set_renew_life(krb5_get_init_creds_opt *, int32_t);
void krb5_get_init_creds_opt_set_forwardable(krb5_get_init_creds_opt *, int);
void krb5_get_init_creds_opt_set_proxiable(krb5_get_init_creds_opt *, int);
void krb5_get_init_creds_opt_set_canonicalize(krb5_get_init_creds_opt *, int);
void krb5_get_init_creds_opt_set_address_list(krb5_get_init_creds_opt *, krb5_address **);
void krb5_get_init_creds_opt_set_etype_list(krb5_get_init_creds_opt *, int32_t *, int);
krb5_error_code krb5_get_permitted_enctypes(krb5_context, int32_t **);
void krb5_free_enctypes(krb5_context, int32_t *);
void krb5_get_init_creds_opt_set_change_password_prompt(krb5_get_init_creds_opt *, int);
int32_t *krb5_get_prompt_types(krb5_context);
krb5_error_code krb5_get_init_creds_opt_set_fast_ccache(krb5_context, krb5_get_init_creds_opt *, krb5_ccache);
krb5_error_code krb5_get_init_creds_opt_set_fast_flags(krb5_context, krb5_get_init_creds_opt *, int32_t);
krb5_error_code krb5_get_init_creds_password(krb5_context, krb5_creds *, krb5_principal, const char *, void *,
    void *, int32_t, const char *, krb5_get_init_creds_opt *);
krb5_error_code krb5_get_init_creds_keytab(krb5_context, krb5_creds *, krb5_principal, krb5_keytab, int32_t,
    const char *, krb5_get_init_creds_opt *);
krb5_error_code krb5_init_creds_init(krb5_context, krb5_principal, void *, void *, int32_t,
    krb5_get_init_creds_opt *, krb5_init_creds_context *);
krb5_error_code krb5_init_creds_get(krb5_context, krb5_init_creds_context);
krb5_error_code krb5_init_creds_get_error(krb5_context, krb5_init_creds_context, krb5_error **);
void krb5_init_creds_free(krb5_context, krb5_init_creds_context);
void krb5_free_error(krb5_context, krb5_error *);
void krb5_verify_init_creds_opt_init(krb5_verify_init_creds_opt *);
void krb5_verify_init_creds_opt_set_ap_req_nofail(krb5_verify_init_creds_opt *, int);
krb5_error_code krb5_verify_init_creds(krb5_context, krb5_creds *, krb5_principal, krb5_keytab, krb5_ccache *,
    krb5_verify_init_creds_opt *);
krb5_error_code krb5_get_renewed_creds(krb5_context, krb5_creds *, krb5_principal, krb5_ccache, const char *);
krb5_error_code krb5_get_credentials(krb5_context, int32_t, krb5_ccache, krb5_creds *, krb5_creds **);
krb5_error_code krb5_fwd_tgt_creds(krb5_context, krb5_auth_context, const char *, krb5_principal, krb5_principal,
    krb5_ccache, int, krb5_data *);
void krb5_free_creds(krb5_context, krb5_creds *);
void krb5_free_tgt_creds(krb5_context, krb5_creds **);
krb5_error_code krb5_mk_1cred(krb5_context, krb5_auth_context, krb5_creds *, krb5_data **, krb5_replay_data *);
krb5_error_code krb5_rd_cred(krb5_context, krb5_auth_context, krb5_data *, krb5_creds ***, krb5_replay_data *);
krb5_error_code krb5_change_password(krb5_context, krb5_creds *, const char *, int *, krb5_data *, krb5_data *);
krb5_error_code krb5_chpw_message(krb5_context, const krb5_data *, char **);
void krb5_free_string(krb5_context, char *);
void krb5_free_cred_contents(krb5_context, krb5_creds *);
"""

AUTH = """
krb5_error_code krb5_auth_con_init(krb5_context, krb5_auth_context *);
krb5_error_code krb5_auth_con_free(krb5_context, krb5_auth_context);
krb5_error_code krb5_auth_con_setflags(krb5_context, krb5_auth_context, int32_t);
krb5_error_code krb5_auth_con_setaddrs(krb5_context, krb5_auth_context, krb5_address *, krb5_address *);
krb5_error_code krb5_auth_con_getauthenticator(krb5_context, krb5_auth_context, krb5_authenticator **);
void krb5_free_authenticator(krb5_context, krb5_authenticator *);
krb5_error_code krb5_mk_req_extended(krb5_context, krb5_auth_context *, int32_t, krb5_data *, krb5_creds *,
    krb5_data *);
krb5_error_code krb5_rd_req(krb5_context, krb5_auth_context *, const krb5_data *, krb5_const_principal, krb5_keytab,
    int32_t *, krb5_ticket **);
krb5_error_code krb5_mk_rep(krb5_context, krb5_auth_context, krb5_data *);
krb5_error_code krb5_rd_rep(krb5_context, krb5_auth_context, const krb5_data *, krb5_ap_rep_enc_part **);
void krb5_free_ap_rep_enc_part(krb5_context, krb5_ap_rep_enc_part *);
krb5_error_code krb5_mk_priv(krb5_context, krb5_auth_context, const krb5_data *, krb5_data *, krb5_replay_data *);
krb5_error_code krb5_rd_priv(krb5_context, krb5_auth_context, const krb5_data *, krb5_data *, krb5_replay_data *);
krb5_error_code krb5_auth_con_getlocalseqnumber(krb5_context, krb5_auth_context, int32_t *);
krb5_error_code krb5_auth_con_getsendsubkey(krb5_context, krb5_auth_context, krb5_keyblock **);
krb5_error_code krb5_auth_con_getkey(krb5_context, krb5_auth_context, krb5_keyblock **);
void krb5_free_keyblock(krb5_context, krb5_keyblock *);
krb5_error_code krb5_c_crypto_length(krb5_context, int32_t, int32_t, unsigned int *);
krb5_error_code krb5_c_encrypt_iov(krb5_context, const krb5_keyblock *, int32_t, const krb5_data *,
    krb5_crypto_iov *, size_t);
"""

PROFILE = """
krb5_error_code krb5_get_profile(krb5_context, struct _profile_t **);
void profile_release(struct _profile_t *);
long profile_get_values(struct _profile_t *, const char *const *names, char ***values);
void profile_free_list(char **);
"""

ERROR_NUMBERS = "".join(f"#define {name} {number}\n" for name, number in codes.NUMBERS.items())

CDEF = TYPES + CONSTANTS + ERROR_NUMBERS + CONTEXT + NAMES + CCACHE + KEYTAB + CREDS + AUTH + PROFILE

# Called by libkrb5: a static function of the compiled module. Without that module there is none, and cffi must make
# one at run time in memory that can be written and executed, which the systemd units forbid (MemoryDenyWriteExecute).
CALLBACKS = """
extern "Python" int32_t hipercow_slurm_prompter(krb5_context, void *, const char *, const char *, int, krb5_prompt *);
"""
