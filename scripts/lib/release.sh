#!/bin/sh
# What the installers and the updater have in common: finding a release, believing it, putting it in place.
# Sourced, never run; scripts/build-release writes it into each script that it releases. All variables of a shell are one
# another's: those of functions here must not have names that the scripts use.
# shellcheck disable=SC2034 # what is set here is used there

bin_dir=/usr/local/bin
lib_dir=/usr/local/lib/octoporty
config_dir=/etc/octoporty
unit_dir=/etc/systemd/system
state_dir=/var/lib/octoporty-updater
# Where releases are, unless /etc/octoporty/update.conf says otherwise.
default_source=https://github.com/octoporty/octoporty/releases
signing_namespace=octoporty-release
signing_identity=release@octoporty

me=${0##*/}
yes='' dry='' source='' signers='' fingerprint='' allow_unsigned='' work=''
# What is installed is for everybody to read, whatever the shell of root makes of new files.
umask 022

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "$me" "$*" >&2; }
fail() { warn "$*"; exit 1; }
wrong() { warn "$*"; printf "try '%s --help'\n" "$me" >&2; exit 2; }

# Does a thing, or with --dry-run says what it would be.
run() {
    if [ -n "$dry" ]; then
        printf 'would run: %s\n' "$*"
    else
        "$@"
    fi
}

# A yes or no; --yes answers all of them. Nobody there to ask is a no.
confirm() { # question
    [ -z "$yes$dry" ] || return 0
    [ -t 0 ] || return 1
    printf '%s [y/N] ' "$1"
    read -r answer || return 1
    case $answer in y | Y | yes) return 0 ;; *) return 1 ;; esac
}

need_root() {
    [ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || fail "must be run as root: sudo $0"
}

need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || fail "$1 is missing: apt-get install $2"
}

# What a script has to undo when it ends early; each may define its own.
undo() { :; }

make_work() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/octoporty.XXXXXX") || fail "no temporary folder"
    trap 'undo; rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT TERM
}

# One installation, update or removal at a time. The lock is on a folder that is there anyway, so it leaves nothing.
take_lock() {
    [ -z "$dry" ] || return 0
    need flock util-linux
    mkdir -p $bin_dir
    exec 9<$bin_dir
    flock -n 9 && return
    say "Another installation or update is running: waiting for it to end."
    flock -w 600 9 || fail "another installation or update has been running for ten minutes; nothing was changed"
}

# The options that all scripts have. Sets `taken` to how many words it was, 0 for none of them.
common_option() { # words
    taken=1
    case $1 in
    --yes) yes=1 ;;
    --dry-run) dry=1 ;;
    --allow-unsigned) allow_unsigned=1 ;;
    --from | --signers | --fingerprint)
        if [ $# -lt 2 ] || [ -z "$2" ]; then wrong "$1 needs a value"; fi
        case $1 in
        --from) source=$2 ;;
        --signers) signers=$2 ;;
        --fingerprint) fingerprint=$2 ;;
        esac
        taken=2
        ;;
    *) taken=0 ;;
    esac
}

# --- versions: three numbers; what is no number counts as 0 ---

version_part() { # version, 1 to 3
    part=$(printf '%s' "${1%%[-+]*}" | cut -d. -f"$2" -s)
    [ "$2" != 1 ] || part=${1%%[.+-]*}
    case $part in
    '' | *[!0-9]*) echo 0 ;;
    *) printf '%s' "$part" | sed 's/^0*\(.\)/\1/' ;;
    esac
}

is_version() { # text
    printf '%s' "$1" | grep -Eqx '[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}'
}

# Whether the first version is greater than the second.
newer() { # version, version
    for index in 1 2 3; do
        first=$(version_part "$1" $index)
        second=$(version_part "$2" $index)
        [ "$first" -eq "$second" ] || { [ "$first" -gt "$second" ]; return; }
    done
    return 1
}

version_of() { # binary
    "$1" version 2>/dev/null | sed -n 's/^octoporty-[a-z]* \([0-9.]*\)$/\1/p'
}

# --- getting a release ---

machine() {
    case $(uname -m) in
    x86_64 | amd64)
        # A 32-bit system on a 64-bit kernel runs both; what its programs are is what counts.
        if [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ]; then echo i686; else echo x86_64; fi
        ;;
    aarch64 | arm64)
        if [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ]; then echo armv7; else echo aarch64; fi
        ;;
    armv7* | armv8*) echo armv7 ;;
    i?86) echo i686 ;;
    *) fail "there is no release for $(uname -m): x86_64, aarch64, armv7 and i686 are built" ;;
    esac
}

# One file of a release folder or download page. Plain http only from this machine: everything is verified, but who asks
# for what is nobody's business.
fetch() { # from, to
    case $1 in
    https://* | http://127.0.0.1[:/]* | http://localhost[:/]*)
        if command -v curl >/dev/null 2>&1; then
            curl --fail --silent --show-error --location --proto-redir =https --retry 2 --connect-timeout 20 --max-time 600 \
                --max-filesize 67108864 --output "$2" "$1" || return 1
        else
            need wget wget
            wget -q -T 60 -t 2 -O "$2" "$1" || { warn "cannot download $1"; return 1; }
        fi
        ;;
    *://*) warn "$1: only https:// and folders are allowed"; return 1 ;;
    *) cp "$1" "$2" || return 1 ;;
    esac
}

# Where the files of a version are: a folder with them, or with a folder per version; or a page laid out like GitHub's.
place_of() { # source, version or ''
    case $1 in
    *://*) if [ -n "$2" ]; then echo "${1%/}/download/v$2"; else echo "${1%/}/latest/download"; fi ;;
    *) if [ -n "$2" ] && [ -d "$1/v$2" ]; then echo "$1/v$2"; else echo "$1"; fi ;;
    esac
}

# The newest version there.
latest_version() { # source
    fetch "$(place_of "$1" '')/VERSION" "$work/latest" 2>"$work/fetch" ||
        { warn "$(place_of "$1" '')/VERSION cannot be had: $(tr '\n' ' ' <"$work/fetch")"; return 1; }
    latest=$(head -c 64 "$work/latest" | tr -d '[:space:]')
    is_version "$latest" || { warn "$1: its VERSION says \"$latest\", which is no version"; return 1; }
    printf '%s\n' "$latest"
}

# --- believing a release ---

# Decides whose signatures count. What was pinned at the first installation wins over anything that comes along.
find_signers() { # folder of the release
    pinned=$config_dir/allowed_signers
    if [ -n "$signers" ]; then
        [ -r "$signers" ] || fail "--signers $signers: cannot be read"
    elif [ -r "$pinned" ]; then
        signers=$pinned
    elif [ -r "$1/allowed_signers" ]; then
        # A release between two keys offers both; each line is options, then the key.
        offered=''
        : >"$work/allowed_signers"
        while read -r signer; do
            print=$(printf '%s\n' "${signer#* * }" | ssh-keygen -l -f - 2>/dev/null | cut -d' ' -f2)
            [ -n "$print" ] || continue
            offered="$offered $print"
            case $fingerprint in '' | "$print") printf '%s\n' "$signer" >>"$work/allowed_signers" ;; esac
        done <"$1/allowed_signers"
        [ -n "$offered" ] || fail "$1/allowed_signers holds no key"
        if [ -n "$fingerprint" ]; then
            [ -s "$work/allowed_signers" ] ||
                fail "the release is signed by$offered, --fingerprint says $fingerprint: do not use it"
        else
            say "This release is signed by the key$offered"
            say "Compare that with the fingerprint on the project's page. It is pinned for all later updates."
            [ -z "$yes" ] || fail "--yes cannot compare it for you: add --fingerprint$offered if it is right"
            confirm "Is it right?" || fail "the key is not trusted; nothing was changed"
        fi
        signers=$work/allowed_signers
    else
        signers=
    fi
}

# Checksums and signature of SHA256SUMS in a folder. Nothing of the release has been run or copied before.
verify_sums() { # folder, names that must be listed...
    sums_folder=$1
    shift
    [ -r "$sums_folder/SHA256SUMS" ] || { warn "$sums_folder has no SHA256SUMS: not a release"; return 1; }
    if [ -n "$allow_unsigned" ]; then
        warn "the signature is not checked (--allow-unsigned)"
    elif [ ! -r "$sums_folder/SHA256SUMS.sig" ]; then
        warn "$sums_folder is not signed; --allow-unsigned takes it by its checksums alone"
        return 1
    else
        need ssh-keygen openssh-client
        [ -n "$signers" ] || find_signers "$sums_folder"
        if [ -z "$signers" ]; then
            warn "no key to check the signature with: give --signers FILE"
            return 1
        fi
        if ! ssh-keygen -q -Y verify -f "$signers" -I $signing_identity -n $signing_namespace \
            -s "$sums_folder/SHA256SUMS.sig" <"$sums_folder/SHA256SUMS" >"$work/verify" 2>&1; then
            warn "the signature of $sums_folder/SHA256SUMS is wrong: $(tr '\n' ' ' <"$work/verify")"
            return 1
        fi
    fi
    for listed_name in "$@"; do
        grep -qx "[0-9a-f]\{64\}  $listed_name" "$sums_folder/SHA256SUMS" ||
            { warn "$sums_folder/SHA256SUMS does not list $listed_name"; return 1; }
    done
}

# A whole unpacked release: every file is listed, and is what the list says.
verify_folder() { # folder
    verify_sums "$1" VERSION FILES octoporty-gateway octoporty-agent || return 1
    (
        cd "$1" || exit 1
        # A link could lead to something else by the time it is used.
        odd=$(find . ! -type f ! -type d | head -n 1)
        [ -z "$odd" ] || { warn "$1: $odd is neither a file nor a folder: not a release"; exit 1; }
        sha256sum --check --strict --quiet SHA256SUMS >"$work/sums" 2>&1 ||
            { warn "$1 is damaged: $(head -n 3 "$work/sums" | tr '\n' ' ')"; exit 1; }
        find . -type f ! -path ./SHA256SUMS ! -path ./SHA256SUMS.sig | sed 's,^\./,,' | LC_ALL=C sort >"$work/present"
        cut -c67- SHA256SUMS | LC_ALL=C sort >"$work/listed"
        cmp -s "$work/present" "$work/listed" ||
            { warn "$1 has other files than its SHA256SUMS lists: $(LC_ALL=C comm -3 "$work/present" "$work/listed" | head -n 3 | tr -s '\n\t' '  ')"; exit 1; }
    )
}

# Brings a release here, verified. Sets `release` to its folder.
get_release() { # source, version or ''
    if [ -f "$1/octoporty-gateway" ]; then
        # Unpacked already. Copied first, so that what is verified is what is used.
        release=$work/release
        mkdir "$release" && cp -R "$1/." "$release" || return 1
        verify_folder "$release" || return 1
    else
        wanted=$2
        [ -n "$wanted" ] || wanted=$(latest_version "$1") || return 1
        place=$(place_of "$1" "$wanted")
        archive=octoporty-$wanted-$(machine)
        mkdir -p "$work/download"
        for file in SHA256SUMS SHA256SUMS.sig allowed_signers "$archive.tar.gz"; do
            fetch "$place/$file" "$work/download/$file" 2>"$work/fetch" && continue
            # What verification needs, it asks for itself.
            case $file in *.sig | allowed_signers) continue ;; esac
            warn "$place/$file cannot be had: $(tr '\n' ' ' <"$work/fetch")"
            return 1
        done
        verify_sums "$work/download" "$archive.tar.gz" || return 1
        (cd "$work/download" && grep "  $archive.tar.gz\$" SHA256SUMS | sha256sum --check --strict --quiet -) \
            >"$work/sums" 2>&1 || { warn "$place/$archive.tar.gz is damaged: its checksum is wrong"; return 1; }
        tar -xzf "$work/download/$archive.tar.gz" -C "$work" --no-same-owner || return 1
        release=$work/$archive
        verify_folder "$release" || return 1
    fi
    release_version=$(cat "$release/VERSION")
    is_version "$release_version" || { warn "the release says it is version \"$release_version\""; return 1; }
    if [ -n "$2" ] && [ "$2" != "$release_version" ]; then
        warn "version $2 was asked for, the release is $release_version"
        return 1
    fi
}

# --- putting it in place ---

# By renaming: a program that runs keeps its file, and nobody ever sees half of one.
put() { # from, to, mode
    if [ -n "$dry" ]; then
        say "would install: $2"
        return
    fi
    mkdir -p "${2%/*}" &&
        cp "$1" "$2.new" && chown 0:0 "$2.new" && chmod "$3" "$2.new" && mv -f "$2.new" "$2"
}

# The files of one daemon, but for its settings: from where in the release, to where, mode. scripts/build-release writes
# this table into FILES, because it is an older updater that puts a newer release in place, and what it has put there is
# what is removed one day.
files_of() { # gateway or agent
    echo "octoporty-$1 $bin_dir/octoporty-$1 755"
    echo "update $lib_dir/update 755"
    echo "uninstall $lib_dir/uninstall 755"
    echo "FILES $lib_dir/files-$1 644"
    echo "systemd/octoporty-$1.sysusers /etc/sysusers.d/octoporty-$1.conf 644"
    echo "systemd/octoporty-$1.tmpfiles /etc/tmpfiles.d/octoporty-$1.conf 644"
    echo "systemd/octoporty-$1.service $unit_dir/octoporty-$1.service 644"
    echo "systemd/octoporty-recover@.service $unit_dir/octoporty-recover@.service 644"
    if [ "$1" = gateway ]; then
        echo "systemd/octoporty-gateway.socket $unit_dir/octoporty-gateway.socket 644"
        echo "systemd/octoporty-updater.path $unit_dir/octoporty-updater.path 644"
        echo "systemd/octoporty-updater.service $unit_dir/octoporty-updater.service 644"
    else
        echo "systemd/octoporty-agent-update.timer $unit_dir/octoporty-agent-update.timer 644"
        echo "systemd/octoporty-agent-update.service $unit_dir/octoporty-agent-update.service 644"
    fi
}

# Whose signatures count from now on: what a release says that those have signed who count so far. So keys can change.
pin_signers() { # folder of the release
    if [ -n "$allow_unsigned" ] || [ ! -r "$1/allowed_signers" ]; then return 0; fi
    cmp -s "$1/allowed_signers" "$config_dir/allowed_signers" || put "$1/allowed_signers" "$config_dir/allowed_signers" 644
}

# The table of a release.
release_files() { # gateway or agent, folder
    sed -n "s/^$1 //p" "$2/FILES"
}

put_files() { # gateway or agent, folder
    release_files "$1" "$2" >"$work/files"
    [ -s "$work/files" ] || { warn "the release does not say which files the $1 has"; return 1; }
    while read -r from to mode; do
        put "$2/$from" "$to" "$mode" || return 1
    done <"$work/files"
}

has_systemd() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1
}

# Users and folders, as sysusers.d and tmpfiles.d say; by hand where systemd's tools are not installed.
make_users() { # gateway or agent
    if [ -n "$dry" ] || command -v systemd-sysusers >/dev/null 2>&1; then
        run systemd-sysusers "/etc/sysusers.d/octoporty-$1.conf"
        run systemd-tmpfiles --create "/etc/tmpfiles.d/octoporty-$1.conf"
        return
    fi
    id "octoporty-$1" >/dev/null 2>&1 ||
        useradd --system --no-create-home --home-dir "/var/lib/octoporty-$1" --shell /usr/sbin/nologin "octoporty-$1"
}

# Whether the daemon serves: the service runs, the process is the file that is installed now, and it says that it is well.
is_well() { # gateway or agent
    systemctl is-active --quiet "octoporty-$1.service" || return 1
    pid=$(systemctl show -p MainPID --value "octoporty-$1.service")
    [ "$(readlink "/proc/$pid/exe")" = "$bin_dir/octoporty-$1" ] || return 1
    "$bin_dir/octoporty-$1" healthcheck --env-file "$config_dir/$1.env" >/dev/null 2>&1
}

# A clock that nobody sets, as the other one is on a machine without a battery.
uptime_seconds() { cut -d. -f1 /proc/uptime; }

# Waits until it is well, and stays so: a program that crashes after a few seconds is not.
wait_well() { # gateway or agent, seconds, seconds of being well
    until=$(($(uptime_seconds) + $2))
    streak=0
    while [ "$(uptime_seconds)" -lt "$until" ]; do
        if is_well "$1"; then streak=$((streak + 1)); else streak=0; fi
        [ $streak -lt "$3" ] || return 0
        sleep 1
        # Given up by systemd: nothing is to be waited for.
        ! systemctl is-failed --quiet "octoporty-$1.service" || return 1
    done
    return 1
}
