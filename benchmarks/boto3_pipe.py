"""Copy a pipe to an object and back with boto3: boto3_pipe.py put|get BUCKET KEY."""

import sys

import boto3

action, bucket, key = sys.argv[1:]
client = boto3.client('s3')
if action == 'put':
    client.upload_fileobj(sys.stdin.buffer, bucket, key)
else:
    client.download_fileobj(bucket, key, sys.stdout.buffer)
