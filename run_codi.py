import torch,time
from duotok.codec import open_codec
from duotok.codec.layout import Even
from duotok.tokens import WindowPlan
t=time.time(); c=open_codec("external:/tmp/baselines/codi.yaml",tracks=("mix",)); print("open",time.time()-t,c.model_id,c.facts,c.frame_rate)
x=torch.load("/tmp/baselines/cx.pt"); ref,snd=torch.load("/tmp/baselines/cref.pt")
t=time.time(); tok=c.encode(x,44100); print(tok["mix"].shape,torch.equal(tok["mix"][0],ref.reshape(-1).long()),time.time()-t, c.layout)
c.layout=Even(32768,128,WindowPlan(3,1))
cut=c.encode(x,44100)["mix"]; print("windows of 3 chunks with 1 of context:", (cut==tok["mix"]).float().mean().item())
c.layout=Even(32768,128,WindowPlan(40,2))
y=c.decode(tok,"mix"); print(y.shape,(y-snd[:,:y.shape[1]]).abs().max().item(), y.abs().max().item())
tb=c.codebook_vectors()["mix"][0]; print(tb.shape)
print(c.encode(x[:,:32769],44100)["mix"].shape)
c.close()
