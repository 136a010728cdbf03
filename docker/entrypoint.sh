#!/bin/sh
# Without a command: the labelling page of /data. It is open to whoever reaches the published port and has the token, which is printed.
set -eu
if [ "$#" -gt 0 ]; then
  exec maskwright "$@"
fi
token=${MASKWRIGHT_TOKEN:-$(python -c 'import secrets; print(secrets.token_urlsafe(16))')}
exec maskwright label /data --host 0.0.0.0 --port 8765 --no-browser --token "$token"
