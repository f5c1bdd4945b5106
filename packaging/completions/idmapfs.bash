# Completion of idmapfs(1) for bash. A test checks that every option is here.
_idmapfs() {
    local cur=${COMP_WORDS[COMP_CWORD]} first=${COMP_WORDS[1]} words
    local policy="--map= --names= --prefix= --present-as= --store-as= --unmapped= --hide= --policy="
    local flags="--ro --rw --suid --nosuid --dev --nodev --exec --noexec --symfollow --nosymfollow
        --relatime --noatime
        --strictatime --nodiratime --diratime"
    local naming="--allow-other --no-allow-other --fsname= --with-pid= --remount --foreground"
    local server="--cache= --passthrough= --open-files= --engine= --in= --allow-idmap --submounts= --owners=
        --owners-dir= --offset= --size= --device= --partition= --verity= --replaced=
        --image-cache= --upper= --log="
    case $cur in
        --*=*) COMPREPLY=(); return ;;
        -*) ;;
        *)
            COMPREPLY=($(compgen -f -- "$cur"))
            if ((COMP_CWORD == 1)); then
                COMPREPLY+=($(compgen -W "run explain check reload stats owners image abort" -- "$cur"))
            fi
            return
            ;;
    esac
    case $first in
        run) words="$policy $flags $server --as" ;;
        explain) words="$policy --as --json --mount --offset= --size= --device= --partition= --verity= --image-cache=" ;;
        check) words="--source --suid --offset= --size= --device= --partition= --verity= --image-cache=" ;;
        stats) words="--json" ;;
        owners) words="--owners= --owners-dir= --from= --tar= --fix" ;;
        image) words="--json --offset= --size= --device= --partition= --verity= --owners= --owners-dir=" ;;
        reload | abort) words="" ;;
        *) words="$policy $flags $naming $server --help --version" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
}
complete -o filenames -F _idmapfs idmapfs
